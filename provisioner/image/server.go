package image

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	client "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"
)

// incusImages is Incus' own image server, which its client calls images:.
const incusImages = "https://images.linuxcontainers.org"

// serverPatience is how long the image server may take to answer at all; a
// machine without a way there should not wait long.
const serverPatience = 5 * time.Second

// imageServer asks an image server, once for each image, and not at all once it
// did not answer. Its zero value asks Incus' own.
type imageServer struct {
	// url is another server's, and patience another time that it may take.
	url      string
	patience time.Duration

	mu   sync.Mutex
	seen map[string]found
	// silent is how the server failed to answer.
	silent error
}

// found is an image on a server, or why it is not there.
type found struct {
	server client.ImageServer
	image  api.Image
	err    error
}

func (s *imageServer) address() string {
	if s.url == "" {
		return incusImages
	}
	return s.url
}

// find looks an image up by its alias.
func (s *imageServer) find(ctx context.Context, alias string) (found, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, asked := s.seen[alias]; asked {
		return f, f.err
	}
	fail := func(err error) error { return fmt.Errorf("ask %s for %s: %w", s.address(), alias, err) }
	if s.silent != nil {
		return found{}, fail(s.silent)
	}
	answer := make(chan found, 1)
	go func() { answer <- s.ask(alias) }()
	patience := cmp.Or(s.patience, serverPatience)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var f found
	select {
	case f = <-answer:
	case <-timer.C:
		s.silent = fmt.Errorf("no answer within %s", patience)
		return found{}, fail(s.silent)
	case <-ctx.Done():
		return found{}, fail(context.Cause(ctx))
	}
	if f.err != nil {
		f.err = fail(f.err)
	}
	if s.seen == nil {
		s.seen = map[string]found{}
	}
	s.seen[alias] = f
	return f, f.err
}

func (s *imageServer) ask(alias string) (f found) {
	if f.server, f.err = client.ConnectSimpleStreams(s.address(), &client.ConnectionArgs{UserAgent: "lxcmatrix"}); f.err != nil {
		return f
	}
	entry, _, err := f.server.GetImageAliasType("container", alias)
	if err != nil {
		f.err = err
		return f
	}
	image, _, err := f.server.GetImage(entry.Target)
	if err != nil {
		f.err = err
		return f
	}
	f.image = *image
	return f
}
