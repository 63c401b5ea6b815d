package catalog

import (
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rancher"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
)

func cellOf(distro string, servers int, variants ...string) matrix.Cell {
	return matrix.Cell{Distro: matrix.Distro{Name: distro, Version: "1.34.2"}, Topology: matrix.Topology{Servers: servers}, Variants: variants}
}

// TestWhatCannotBe: what a distribution cannot do is told before anything is
// made, and says what it can.
func TestWhatCannotBe(t *testing.T) {
	g := NewWithT(t)
	for _, c := range []matrix.Cell{
		cellOf("k3s", 1), cellOf("k3s", 1, "sqlite"), cellOf("k3s", 1, "bridge", "etcd"), cellOf("k3s", 3, "flannel"),
		cellOf("rke2", 1, "canal"), cellOf("rke2", 1, "bridge", "sqlite"), cellOf("rke2", 3, "cilium", "etcd"),
		cellOf("kubeadm", 3, "flannel-nftables"), cellOf("kubeadm", 1, "unprivileged", "flannel"),
	} {
		g.Expect(distributions()[c.Distro.Name].cannot(c)).To(BeEmpty(), "%v", c)
	}
	for want, c := range map[string]matrix.Cell{
		`k3s has no variant "canal"`:  cellOf("k3s", 1, "canal"),
		"variants etcd and sqlite":    cellOf("k3s", 1, "etcd", "sqlite"),
		"variants canal and bridge":   cellOf("rke2", 1, "canal", "bridge"),
		"3 servers cannot share":      cellOf("rke2", 3, "sqlite"),
		"write 1 or 3 servers":        cellOf("k3s", 2),
		`rke2 has no variant "boom"`:  cellOf("rke2", 1, "boom"),
		"as most of etcd's members m": cellOf("rke2", 4),
		"write 1 or 3 server":         cellOf("kubeadm", 2),
		`kubeadm has no variant "flanel" (did you mean "flannel"?); it has flannel, flannel-nftables, flannel-host-gw, unprivileged`: cellOf("kubeadm", 1, "flanel"),
		"the variants flannel-host-gw and flannel exclude each other":                                                                cellOf("kubeadm", 1, "flannel-host-gw", "flannel"),
	} {
		g.Expect(distributions()[c.Distro.Name].cannot(c)).To(ContainSubstring(want))
	}
}

// TestOwnRuntime: a release of kubeadm's that brings its runtime brings the CNI
// plugins, where that runtime looks for them, and needs neither of the OS.
func TestOwnRuntime(t *testing.T) {
	g := NewWithT(t)
	r := artifact.Release{Distro: "kubeadm", Version: "1.36.3", Files: []artifact.File{
		{Name: "containerd", Kind: artifact.KindBinary}, {Name: "bridge", Kind: artifact.KindPlugin}, {Name: "images.tar", Kind: artifact.KindImages},
	}}
	store, err := artifact.New(t.TempDir(), artifact.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	r.Runtime = store.Runtime("kubeadm", "1.36.3")
	content := Content(r, cellOf("kubeadm", 1))
	g.Expect(content.Brings).To(Equal(image.Brings{Runtime: true, Plugins: true}))
	g.Expect(content.Binaries).To(HaveExactElements(HaveField("Name", "containerd")))
	g.Expect(content.Kept).To(Equal([]image.Kept{{Blob: image.Blob{Name: "bridge"}, Target: "/opt/cni/bin/bridge", Program: true}}))
	r.Runtime = store.Runtime("kubeadm", "1.34.4")
	g.Expect(Content(r, cellOf("kubeadm", 1)).Brings).To(Equal(image.Brings{}))
}

// TestContentOfReleases: every file of a release is in the image, where its
// distribution looks for it.
func TestContentOfReleases(t *testing.T) {
	g := NewWithT(t)
	file := func(name, kind string, images ...string) artifact.File {
		f := artifact.File{Name: name, Kind: kind, Path: "/cache/" + name, SHA256: name}
		for _, i := range images {
			f.Images = append(f.Images, artifact.Image{Name: i})
		}
		return f
	}
	blob := func(name string) image.Blob { return image.Blob{Name: name, Path: "/cache/" + name, SHA256: name} }
	own := artifact.Runtime{Containerd: artifact.RuntimeBundled, Runc: artifact.RuntimeBundled}

	r := artifact.Release{Distro: "k3s", Version: "1.34.2+k3s1", Runtime: own, Files: []artifact.File{
		file("k3s", artifact.KindBinary), file("k3s-airgap-images-amd64.tar.zst", artifact.KindAirgap, "rancher/klipper-lb:v1"), file("images.tar", artifact.KindImages, "probe:1"),
	}}
	content := Content(r, cellOf("k3s", 1))
	g.Expect(content.Runtime).To(BeTrue(), "nothing of the OS' runtime is installed")
	g.Expect(content.Binaries).To(Equal([]image.Blob{blob("k3s")}))
	g.Expect(content.Archives).To(BeEmpty(), "there is no containerd that could load them")
	g.Expect(content.Kept).To(Equal([]image.Kept{
		{Blob: blob("k3s-airgap-images-amd64.tar.zst"), Target: "/var/lib/rancher/k3s/agent/images/k3s-airgap-images-amd64.tar.zst"},
		{Blob: blob("images.tar"), Target: "/var/lib/rancher/k3s/agent/images/lxcmatrix-images.tar"},
	}))
	g.Expect(Content(r, cellOf("k3s", 1, "bridge")).Plugins).To(BeTrue(), "k3s has them in it")
	g.Expect(content.Links).To(HaveKeyWithValue("/usr/local/bin/kubectl", "k3s"))
	for _, u := range content.Units {
		g.Expect(u.Enable).To(BeFalse(), "%s starts when the cell says so", u.Name)
	}
	d, ok := Distro(r, cellOf("k3s", 3, "bridge"), matrix.Timeouts{}).(*rancher.Distro)
	g.Expect(ok).To(BeTrue())
	g.Expect(d.Available).To(Equal([]string{"rancher/klipper-lb:v1", "probe:1"}))
	g.Expect(d.Options).To(Equal(rancher.Options{CNI: "bridge", Servers: 3}))

	r = artifact.Release{Distro: "rke2", Version: "1.34.2+rke2r1", Runtime: own, Files: []artifact.File{
		file("rke2.linux-amd64.tar.gz", artifact.KindBundle), file("rke2-images-core.linux-amd64.tar.zst", artifact.KindAirgap), file("images.tar", artifact.KindImages),
	}}
	content = Content(r, cellOf("rke2", 1))
	g.Expect(content.Bundles).To(Equal([]image.Blob{blob("rke2.linux-amd64.tar.gz")}))
	g.Expect(content.Binaries).To(BeEmpty())
	g.Expect(content.Units).To(BeEmpty(), "its bundle has them")
	g.Expect(content.Kept[0].Target).To(Equal("/var/lib/rancher/rke2/agent/images/rke2-images-core.linux-amd64.tar.zst"))
	g.Expect(content.Brings).To(Equal(image.Brings{Runtime: true, Plugins: true}))
	g.Expect(Content(r, cellOf("rke2", 1, "bridge")).Brings).To(Equal(image.Brings{Runtime: true}), "only its own networks bring plugins")
	g.Expect(Kubeconfig("rke2")).To(Equal("/etc/rancher/rke2/rke2.yaml"))
}
