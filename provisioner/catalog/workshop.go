package catalog

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// shared is what can be open once, and is wanted by several: it opens for the
// first of them and closes with the last.
type shared[T interface{ Close(context.Context) error }] struct {
	open func(context.Context) (T, error)
	// turn is held by whoever opens, closes or counts.
	turn  chan struct{}
	now   T
	users int
}

func newShared[T interface{ Close(context.Context) error }](open func(context.Context) (T, error)) *shared[T] {
	return &shared[T]{open: open, turn: make(chan struct{}, 1)}
}

// enter opens it, or joins those who have it open; leave, called once or more,
// ends that.
func (s *shared[T]) enter(ctx context.Context) (now T, leave func(context.Context) error, err error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return now, nil, context.Cause(ctx)
	}
	defer func() { <-s.turn }()
	if s.users == 0 {
		if s.now, err = s.open(ctx); err != nil {
			return now, nil, err
		}
	}
	s.users++
	var once sync.Once
	return s.now, func(ctx context.Context) (err error) {
		once.Do(func() { err = s.leave(ctx) })
		return err
	}, nil
}

func (s *shared[T]) leave(ctx context.Context) error {
	// Not given up when ctx ends: who opens now ends soon.
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.users--
	if s.users > 0 {
		return nil
	}
	return s.now.Close(ctx)
}

// inUsePatience is how long the making of an image waits for a run of another
// process that has the embedded host open.
const inUsePatience = 30 * time.Minute

// workshop makes images on the embedded host, which cells of the plan may be
// on at the same time.
func workshop(embedded *shared[*host.Host], progress provisioner.Progress) image.Workshop {
	return func(ctx context.Context) (*incus.Server, func(context.Context) error, error) {
		type opened struct {
			host  *host.Host
			leave func(context.Context) error
		}
		told := false
		o, err := backoff.Retry(ctx, func() (opened, error) {
			h, leave, err := embedded.enter(ctx)
			var inUse *host.InUseError
			switch {
			case errors.As(err, &inUse):
				if !told && progress != nil {
					progress.Note("an image is to be made: waiting for the end of the run that has the embedded host in %s open", inUse.StateDir)
				}
				told = true
			case err != nil:
				err = backoff.Permanent(err)
			}
			return opened{h, leave}, err
		}, backoff.WithBackOff(backoff.NewConstantBackOff(time.Second)), backoff.WithMaxElapsedTime(inUsePatience))
		if err != nil {
			return nil, nil, err
		}
		return o.host.Server, o.leave, nil
	}
}

// memory does work once for each key, however many want it, and remembers how
// it ended. Work that its asker gave up on is done again by the next.
type memory[T any] struct {
	mu   sync.Mutex
	work map[string]*remembered[T]
}

type remembered[T any] struct {
	// turn is held by whoever works.
	turn  chan struct{}
	done  bool
	value T
	err   error
}

func (m *memory[T]) do(ctx context.Context, key string, work func() (T, error)) (T, error) {
	m.mu.Lock()
	if m.work == nil {
		m.work = map[string]*remembered[T]{}
	}
	r := m.work[key]
	if r == nil {
		r = &remembered[T]{turn: make(chan struct{}, 1)}
		m.work[key] = r
	}
	m.mu.Unlock()
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
	defer func() { <-r.turn }()
	if !r.done {
		r.value, r.err = work()
		r.done = r.err == nil || ctx.Err() == nil
	}
	return r.value, r.err
}
