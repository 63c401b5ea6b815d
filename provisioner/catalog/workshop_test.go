package catalog

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	. "github.com/onsi/gomega"
)

// fakeHost counts how often it was opened and closed.
type fakeHost struct {
	opened, closed atomic.Int32
	err            error
}

func (f *fakeHost) open(context.Context) (*fakeHost, error) {
	if f.err != nil {
		return nil, f.err
	}
	if f.opened.Add(1) != f.closed.Load()+1 {
		return nil, errors.New("it is open already")
	}
	return f, nil
}

func (f *fakeHost) Close(context.Context) error {
	f.closed.Add(1)
	return nil
}

func TestShared(t *testing.T) {
	g := NewWithT(t)
	f := &fakeHost{}
	s := newShared(f.open)
	ctx := t.Context()
	_, first, err := s.enter(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	_, second, err := s.enter(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first(ctx)).To(Succeed())
	g.Expect(first(ctx)).To(Succeed(), "leaving twice is leaving once")
	g.Expect(f.closed.Load()).To(BeZero())
	g.Expect(second(ctx)).To(Succeed())
	g.Expect(f.closed.Load()).To(BeEquivalentTo(1))

	// It opens again, and one that did not open is tried again.
	f.err = errors.New("boom")
	_, _, err = s.enter(ctx)
	g.Expect(err).To(MatchError(f.err))
	f.err = nil
	_, third, err := s.enter(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(third(ctx)).To(Succeed())
	g.Expect(f.opened.Load()).To(BeEquivalentTo(2))

	// Many at once never see it closed, nor open twice.
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			_, leave, err := s.enter(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			if f.opened.Load() == f.closed.Load() {
				t.Error("entered, and it is closed")
			}
			if err := leave(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	g.Expect(f.closed.Load()).To(Equal(f.opened.Load()))

	// Who waits for another's opening can give up.
	s.turn <- struct{}{}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, _, err = s.enter(ended)
	g.Expect(err).To(MatchError(context.Canceled))
}

func TestMemory(t *testing.T) {
	g := NewWithT(t)
	var m memory[int]
	var calls atomic.Int32
	boom := errors.New("boom")
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			got, err := m.do(t.Context(), "a", func() (int, error) { return int(calls.Add(1)), nil })
			if got != 1 || err != nil {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
	wait.Wait()
	for range 2 {
		_, err := m.do(t.Context(), "b", func() (int, error) { calls.Add(1); return 0, boom })
		g.Expect(err).To(MatchError(boom))
	}
	g.Expect(calls.Load()).To(BeEquivalentTo(2), "what failed is remembered, too")

	ended, cancel := context.WithCancel(t.Context())
	_, err := m.do(ended, "c", func() (int, error) { cancel(); return 0, context.Canceled })
	g.Expect(err).To(MatchError(context.Canceled))
	got, err := m.do(t.Context(), "c", func() (int, error) { return 3, nil })
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got).To(Equal(3), "what somebody gave up on is done by the next")
}
