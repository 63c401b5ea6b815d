package kubeadm

import (
	"slices"

	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/flannel"
)

// variant is a way to set clusters up that a matrix can name.
type variant struct {
	name    string
	flannel flannel.Settings
}

func variants() []variant {
	return []variant{
		{"flannel", flannel.Settings{Backend: "vxlan"}},
		{"flannel-nftables", flannel.Settings{Backend: "vxlan", NFTables: true}},
		{"flannel-host-gw", flannel.Settings{Backend: "host-gw"}},
	}
}

// Variants names the ways to set clusters up that a matrix can choose from,
// beside the one without a name. They exclude each other.
func Variants() (names []string) {
	for _, v := range variants() {
		names = append(names, v.name)
	}
	return names
}

// Flannel is what a cell's variants say of flannel; nil where none does.
func Flannel(chosen []string) *flannel.Settings {
	for _, v := range variants() {
		if slices.Contains(chosen, v.name) {
			return &v.flannel
		}
	}
	return nil
}
