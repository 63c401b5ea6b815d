package artifact

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

func TestNormalise(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	raw, layer := filepath.Join(dir, "raw.tar"), filepath.Join(dir, "layer.tar")
	out, err := os.Create(raw)
	g.Expect(err).NotTo(HaveOccurred())
	w := tar.NewWriter(out)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./usr/sbin/iptables", Mode: 0o755, Size: 4, Uname: "root", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "cap", "LIBARCHIVE.x": "no"}},
		{Typeflag: tar.TypeLink, Name: "./usr/bin/z", Linkname: "./usr/sbin/iptables"},
		{Typeflag: tar.TypeSymlink, Name: "./bin", Linkname: "usr/bin"},
		{Typeflag: tar.TypeDir, Name: "./usr/share/doc/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./usr/share/doc/x/README", Mode: 0o644, Size: 4},
		{Typeflag: tar.TypeChar, Name: "./dev/null", Mode: 0o666},
		{Typeflag: tar.TypeReg, Name: "./etc/resolv.conf", Mode: 0o644, Size: 4},
	} {
		h.ModTime = time.Now()
		h.Format = tar.FormatPAX
		g.Expect(w.WriteHeader(&h)).To(Succeed())
		if h.Size > 0 {
			_, err := io.WriteString(w, "data")
			g.Expect(err).NotTo(HaveOccurred())
		}
	}
	g.Expect(errors.Join(w.Close(), out.Close())).To(Succeed())
	g.Expect(normalise(raw, layer)).To(Succeed())

	in, err := os.Open(layer)
	g.Expect(err).NotTo(HaveOccurred())
	defer func() { _ = in.Close() }()
	var got []string
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(h.ModTime).To(BeTemporally("==", epoch))
		g.Expect(h.Uname).To(BeEmpty())
		content, err := io.ReadAll(r)
		g.Expect(err).NotTo(HaveOccurred())
		got = append(got, strings.TrimSpace(fmt.Sprintf("%c %s %s %s%s", h.Typeflag, h.Name, h.Linkname, content, h.PAXRecords["SCHILY.xattr.security.capability"])))
	}
	g.Expect(got).To(Equal([]string{"2 bin usr/bin", "0 usr/sbin/iptables  datacap", "5 usr/share/doc/", "1 usr/bin/z usr/sbin/iptables"}))
}
