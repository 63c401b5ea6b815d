package image

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// Kept is a file that is put into an image as it is.
type Kept struct {
	Blob
	// Target is its path there.
	Target string
	// Program makes it executable.
	Program bool
}

func (k Kept) mode() int {
	if k.Program {
		return 0o755
	}
	return 0o644
}

// unpackBundle unpacks a release's own tree of programs and units.
const unpackBundle = `tar -xzf "$1" --no-same-owner -C /usr/local; rm "$1"`

// makeLink makes a symbolic link, and the folder that it is in.
const makeLink = `mkdir -p "$(dirname "$1")"; ln -sfn "$2" "$1"`

// place puts what a distribution brings as files into an instance: bundles
// first, kept files, and links to either.
func place(ctx context.Context, instance *incus.Instance, content Content) error {
	script := func(args ...string) error {
		_, err := instance.Exec(ctx, provisioner.Command{Args: append([]string{"sh", "-ec"}, args...)})
		return err
	}
	for _, b := range content.Bundles {
		target := "/var/tmp/" + b.Name
		if err := pushBlob(ctx, instance, b, target, 0o600); err != nil {
			return err
		}
		if err := script(unpackBundle, "unpack", target); err != nil {
			return fmt.Errorf("unpack %s: %w", b.Name, err)
		}
	}
	for _, k := range content.Kept {
		if err := pushBlob(ctx, instance, k.Blob, k.Target, k.mode()); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(content.Links)) {
		if err := script(makeLink, "link", name, content.Links[name]); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}

// pushBlob writes a file of this machine into an instance.
func pushBlob(ctx context.Context, instance *incus.Instance, b Blob, target string, mode int) error {
	f, err := os.Open(b.Path)
	if err != nil {
		return fmt.Errorf("push %s: %w", b.Name, err)
	}
	defer func() { _ = f.Close() }()
	return instance.PushFrom(ctx, target, f, mode)
}

// placed is what an image's hash says of what is placed in it.
type placed struct {
	Scripts []string
	// Bundles are digests, Kept those of files, and their modes, by their paths.
	Bundles []string
	Kept    map[string]string
	Links   map[string]string
}

// placedOf is nil for a content that has nothing to place.
func placedOf(content Content) *placed {
	if len(content.Bundles)+len(content.Kept)+len(content.Links) == 0 {
		return nil
	}
	p := &placed{Scripts: []string{unpackBundle, makeLink}, Kept: map[string]string{}, Links: content.Links}
	for _, b := range content.Bundles {
		p.Bundles = append(p.Bundles, b.SHA256)
	}
	for _, k := range content.Kept {
		p.Kept[k.Target] = fmt.Sprintf("%s %o", k.SHA256, k.mode())
	}
	return p
}
