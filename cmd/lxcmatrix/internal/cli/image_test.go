package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

func TestChooseImages(t *testing.T) {
	images := []*shownImage{
		{Name: "base/debian/13/6d36", Fingerprint: "813ce914b76f0000"},
		{Name: "prepared/debian/13/kubeadm-1.34.4/5f00", Fingerprint: "8fda50d525a00000"},
		{Name: "prepared/debian/12/kubeadm-1.34.4/77aa", Fingerprint: "8fda50d525a11111"},
		{Name: imageName(incus.Image{Fingerprint: "0123456789abcdef"}), Fingerprint: "0123456789abcdef"},
	}
	for _, tc := range []struct {
		args []string
		want string
		err  string
	}{
		{args: []string{"prepared/**"}, want: "8fda50d525a00000 8fda50d525a11111"},
		{args: []string{"base/debian/13/6d36", "base/**"}, want: "813ce914b76f0000"},
		{args: []string{"8fda50d525a1"}, want: "8fda50d525a11111"},
		{args: []string{"(half-made)/*"}, want: "0123456789abcdef"},
		{args: []string{"8fda"}, err: `no image is "8fda"; there are:`},
		{args: []string{"base/**", "nope"}, err: "  prepared/debian/12/kubeadm-1.34.4/77aa"},
	} {
		chosen, err := chooseImages(images, tc.args)
		var got []string
		for _, i := range chosen {
			got = append(got, i.Fingerprint)
		}
		if !slices.Equal(got, strings.Fields(tc.want)) {
			t.Errorf("%q chooses %q, want %q", tc.args, got, tc.want)
		}
		if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%q: error %v, want %q", tc.args, err, tc.err)
		}
	}
}

func TestBytesOf(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 3 << 40: "3.0 TiB", 4 << 50: "4096.0 TiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
}
