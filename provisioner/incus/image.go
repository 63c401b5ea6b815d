package incus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	client "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"
	"github.com/lxc/incus/v6/shared/cancel"
)

// Image is an image in the harness's project.
type Image struct {
	Fingerprint string
	Alias       string
	Properties  map[string]string
	Size        int64
	Created     time.Time
	LastUsed    time.Time
}

// Image finds an image by its alias; found is false where there is none.
func (s *Server) Image(ctx context.Context, alias string) (image Image, found bool, err error) {
	c := s.with(ctx)
	entry, _, err := c.GetImageAlias(alias)
	if isNotFound(err) {
		return Image{}, false, nil
	}
	if err != nil {
		return Image{}, false, fmt.Errorf("look up image %s: %w", alias, err)
	}
	img, _, err := c.GetImage(entry.Target)
	if err != nil {
		return Image{}, false, fmt.Errorf("look up image %s: %w", alias, err)
	}
	return newImage(*img), true, nil
}

// Images lists the images in the harness's project.
func (s *Server) Images(ctx context.Context) ([]Image, error) {
	all, err := s.with(ctx).GetImages()
	if err != nil {
		return nil, fmt.Errorf("list images of project %s: %w", ProjectName, err)
	}
	images := make([]Image, 0, len(all))
	for _, img := range all {
		images = append(images, newImage(img))
	}
	return images, nil
}

func newImage(img api.Image) Image {
	i := Image{Fingerprint: img.Fingerprint, Properties: img.Properties, Size: img.Size, Created: img.UploadedAt, LastUsed: img.LastUsedAt}
	if len(img.Aliases) > 0 {
		i.Alias = img.Aliases[0].Name
	}
	return i
}

// ImportImage uploads an image's metadata and root filesystem tarballs and
// gives it an alias, which appears only when the image is whole.
func (s *Server) ImportImage(ctx context.Context, alias string, metadata, rootfs io.Reader, properties map[string]string) (Image, error) {
	c := s.with(ctx)
	op, err := c.CreateImage(api.ImagesPost{ImagePut: api.ImagePut{Properties: properties}, Filename: "rootfs.tar"},
		&client.ImageCreateArgs{MetaFile: metadata, MetaName: "metadata.tar", RootfsFile: rootfs, RootfsName: "rootfs.tar", Type: "container"})
	if err == nil {
		err = wait(ctx, op)
	}
	if err != nil {
		return Image{}, fmt.Errorf("import image %s: %w", alias, err)
	}
	return s.alias(ctx, alias, op.Get())
}

// UploadImage uploads an image that is one file, metadata and root filesystem
// in one, and gives it an alias.
func (s *Server) UploadImage(ctx context.Context, alias string, file io.Reader) (Image, error) {
	op, err := s.with(ctx).CreateImage(api.ImagesPost{Filename: "image"}, &client.ImageCreateArgs{MetaFile: file, MetaName: "image"})
	if err == nil {
		err = wait(ctx, op)
	}
	if err != nil {
		return Image{}, fmt.Errorf("upload image %s: %w", alias, err)
	}
	return s.alias(ctx, alias, op.Get())
}

// PublishInstance makes an image of a stopped instance, uncompressed: what it
// is compressed with is for whoever keeps it to say.
func (s *Server) PublishInstance(ctx context.Context, instance, alias string, properties map[string]string) (Image, error) {
	c := s.with(ctx)
	op, err := c.CreateImage(api.ImagesPost{
		ImagePut:             api.ImagePut{Properties: properties},
		Source:               &api.ImagesPostSource{Type: "instance", Name: instance},
		CompressionAlgorithm: "none",
	}, nil)
	if err == nil {
		err = wait(ctx, op)
	}
	if err != nil {
		return Image{}, fmt.Errorf("publish instance %s as image %s: %w", instance, alias, err)
	}
	return s.alias(ctx, alias, op.Get())
}

// ExportImage writes an image that is one file to w, and ends early when w
// fails.
func (s *Server) ExportImage(ctx context.Context, fingerprint string, w io.Writer) error {
	canceller := cancel.NewHTTPRequestCanceller()
	stop := context.AfterFunc(ctx, func() { _ = canceller.Cancel() })
	defer stop()
	_, err := s.with(ctx).GetImageFile(fingerprint, client.ImageFileRequest{MetaFile: forwardOnly{w}, Canceler: canceller})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("export image %s: %w", fingerprint, err)
	}
	return nil
}

// forwardOnly is a writer for the client, which wants more than it uses.
type forwardOnly struct{ io.Writer }

// Read fails.
func (forwardOnly) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Seek fails.
func (forwardOnly) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }

// CopyImage copies an image from an image server under an alias.
func (s *Server) CopyImage(ctx context.Context, from client.ImageServer, image api.Image, alias string) (Image, error) {
	op, err := s.with(ctx).CopyImage(from, image, &client.ImageCopyArgs{Type: "container"})
	if err == nil {
		done := make(chan error, 1)
		go func() { done <- op.Wait() }()
		select {
		case err = <-done:
		case <-ctx.Done():
			_ = op.CancelTarget()
			err = ctx.Err()
		}
	}
	if err != nil {
		return Image{}, fmt.Errorf("copy image %s: %w", alias, err)
	}
	return s.aliasFingerprint(ctx, alias, image.Fingerprint)
}

func (s *Server) alias(ctx context.Context, alias string, op api.Operation) (Image, error) {
	fingerprint, _ := op.Metadata["fingerprint"].(string)
	if fingerprint == "" {
		return Image{}, fmt.Errorf("name image %s: operation %s carries no fingerprint", alias, op.ID)
	}
	return s.aliasFingerprint(ctx, alias, fingerprint)
}

func (s *Server) aliasFingerprint(ctx context.Context, alias, fingerprint string) (Image, error) {
	err := s.with(ctx).CreateImageAlias(api.ImageAliasesPost{ImageAliasesEntry: api.ImageAliasesEntry{
		Name: alias, ImageAliasesEntryPut: api.ImageAliasesEntryPut{Target: fingerprint}}})
	if err != nil {
		return Image{}, fmt.Errorf("name image %s %s: %w", fingerprint, alias, err)
	}
	image, found, err := s.Image(ctx, alias)
	if err == nil && !found {
		err = fmt.Errorf("look up image %s: it is gone right after it was made", alias)
	}
	return image, err
}

// DeleteImage removes an image; one that is gone is no error.
func (s *Server) DeleteImage(ctx context.Context, fingerprint string) error {
	op, err := s.with(ctx).DeleteImage(fingerprint)
	if err == nil {
		err = wait(ctx, op)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("delete image %s: %w", fingerprint, err)
	}
	return nil
}
