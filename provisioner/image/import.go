package image

import (
	"context"
	"fmt"
	"os"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// Import makes sure that a prepared image is on a server; one that is not is
// uploaded.
func (s *Store) Import(ctx context.Context, server *incus.Server, p Prepared) error {
	return s.bring(ctx, server, p, func() error {
		file, err := os.Open(p.Path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		_, err = server.UploadImage(ctx, p.Name, file)
		return err
	})
}

// ImportFrom is Import for a host whose own system has the image's file at
// path: it is read there.
func (s *Store) ImportFrom(ctx context.Context, server *incus.Server, host provisioner.HostExec, path string, p Prepared) error {
	return s.bring(ctx, server, p, func() error {
		_, err := host.Run(ctx, provisioner.Command{Args: []string{"incus", "--project", incus.ProjectName, "--quiet",
			"image", "import", path, "--alias", p.Name}})
		return err
	})
}

// bring does what brings an image to a server, and makes sure that it is this
// image that has its name then.
func (s *Store) bring(ctx context.Context, server *incus.Server, p Prepared, load func() error) (err error) {
	fail := func(err error) error { return fmt.Errorf("import image %s: %w", p.Name, err) }
	unlock, err := s.lock(ctx, "import/"+p.Name)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	there, found, err := server.Image(ctx, p.Name)
	if err != nil {
		return fail(err)
	}
	if found && there.Fingerprint == p.Fingerprint {
		return nil
	}
	if found {
		// It was made anew since.
		if err := server.DeleteImage(ctx, there.Fingerprint); err != nil {
			return fail(err)
		}
	}
	end := s.step("importing image %s", p.Name)
	defer func() { end(err) }()
	if err := load(); err != nil {
		return fail(err)
	}
	there, found, err = server.Image(ctx, p.Name)
	switch {
	case err != nil:
		return fail(err)
	case !found || there.Fingerprint != p.Fingerprint:
		return fail(fmt.Errorf("the server has it as %q, and its file is %s", there.Fingerprint, p.Fingerprint))
	}
	return nil
}
