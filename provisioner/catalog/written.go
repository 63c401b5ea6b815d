package catalog

import (
	"fmt"

	"github.com/Masterminds/semver/v3"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/k3s"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/kubeadm"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rancher"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rke2"
)

// Written is what a distribution writes for fixes' settings of kubelet,
// kube-proxy and containerd.
type Written struct {
	// Distro is its name, For the version whose form it is.
	Distro, For string
	Files       []provisioner.File
}

// WrittenBy shows the files in which each distribution brings about what is
// wanted of kubelet, kube-proxy and containerd, in the forms that there are; a
// distribution that has to write nothing is left out.
func WrittenBy(want provisioner.Desired) ([]Written, error) {
	var all []Written
	add := func(distro, version string, files []provisioner.File, err error) error {
		if err != nil {
			return fmt.Errorf("show what %s writes: %w", distro, err)
		}
		if len(files) > 0 {
			all = append(all, Written{Distro: distro, For: version, Files: files})
		}
		return nil
	}
	runtimes := []string{"containerd 1.7.24", "containerd 2.4.2"}
	if c := want.Containerd; len(c.CRI) == 0 && len(c.Runc) == 0 && c.Snapshotter == "" {
		runtimes = runtimes[:1] // it makes no difference
	}
	for _, runtime := range runtimes {
		files, err := kubeadm.Settings(want, runtime)
		shown := runtime
		if len(runtimes) == 1 {
			shown = "any version"
		}
		if err := add("kubeadm", shown, files, err); err != nil {
			return nil, err
		}
	}
	for _, product := range []rancher.Product{k3s.Product(), rke2.Product()} {
		d := &rancher.Distro{Product: product, Version: semver.MustParse("1.34.2")}
		files, err := d.Settings(want)
		if err := add(product.Name, "1.34", files, err); err != nil {
			return nil, err
		}
	}
	return all, nil
}
