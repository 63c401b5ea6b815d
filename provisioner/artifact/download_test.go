package artifact

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/memnet"
)

const (
	content = "the content of a file, which is long enough to be had in two parts"
	fileURL = "https://github.com/k3s-io/k3s/releases/download/v1.34.2%2Bk3s1/k3s"
)

func sumOf(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

// bad is a server of one file that does something else on each request, the
// last for ever after; it keeps what it was asked.
type bad struct {
	mu    sync.Mutex
	does  []http.HandlerFunc
	asked []*http.Request
}

func (b *bad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	does := b.does[min(len(b.asked), len(b.does)-1)]
	b.asked = append(b.asked, r.Clone(r.Context()))
	b.mu.Unlock()
	does(w, r)
}

// ranges lists the Range and If-Range headers of what it was asked.
func (b *bad) ranges() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.asked {
		all = append(all, strings.TrimSpace(r.Header.Get("Range")+" "+r.Header.Get("If-Range")))
	}
	return all
}

// good serves a file as servers do, with an ETag and ranges.
func good(content, tag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if tag != "" {
			w.Header().Set("ETag", tag)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	}
}

// cut promises the whole file and breaks off.
func cut(after int, tag string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if tag != "" {
			w.Header().Set("ETag", tag)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		flush(w, content[:after])
	}
}

func flush(w http.ResponseWriter, s string) {
	_, _ = io.WriteString(w, s)
	_ = http.NewResponseController(w).Flush()
}

func says(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// TestDownload: what a server may do wrong, and what comes of it.
func TestDownload(t *testing.T) {
	const other, plain = "https://127.0.0.1:444", "http://127.0.0.1:80"
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	const changed = "other " + content
	for _, c := range []struct {
		name    string
		does    []http.HandlerFunc
		want    string   // of the error; empty: the file is had
		refused bool     // as a *ChecksumError
		ranges  []string // that were asked for; nil: once, without
	}{
		{name: "whole", does: []http.HandlerFunc{good(content, `"1"`)}},
		{name: "wrong digest", does: []http.HandlerFunc{good(changed, `"1"`)}, want: "is refused: its SHA-256 is " + sumOf(changed) + ", want " + sumOf(content), refused: true},
		{name: "not there", does: []http.HandlerFunc{http.NotFound}, want: "404 Not Found"},
		{name: "short in itself", does: []http.HandlerFunc{good(content[:9], "")}, want: "is refused", refused: true},
		{name: "truncated, then gone on with", does: []http.HandlerFunc{cut(20, `"1"`), good(content, `"1"`)}, ranges: []string{"", `bytes=20- "1"`}},
		{name: "truncated, and no telling versions apart", does: []http.HandlerFunc{cut(20, ""), good(content, "")}, ranges: []string{"", ""}},
		{name: "truncated, and a weak tag", does: []http.HandlerFunc{cut(20, `W/"1"`), good(content, `W/"1"`)}, ranges: []string{"", ""}},
		{name: "truncated every time", does: []http.HandlerFunc{cut(20, "")}, want: "after 20 bytes: unexpected EOF", ranges: []string{"", "", ""}},
		{name: "range ignored", does: []http.HandlerFunc{cut(20, `"1"`), func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			good(content, `"1"`)(w, r)
		}}, ranges: []string{"", `bytes=20- "1"`}},
		{name: "changed between two ranges", does: []http.HandlerFunc{cut(20, `"1"`), good(content, `"2"`)}, ranges: []string{"", `bytes=20- "1"`}},
		{name: "changed, and If-Range ignored", does: []http.HandlerFunc{cut(20, `"1"`), func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("If-Range")
			good(content, `"2"`)(w, r)
		}}, ranges: []string{"", `bytes=20- "1"`, ""}},
		{name: "changed, and nobody says so", does: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(changed)))
			flush(w, changed[:20])
		}, good(content, `"1"`)}, ranges: []string{"", `bytes=20- "1"`, ""}},
		{name: "another range than asked", does: []http.HandlerFunc{cut(20, `"1"`), func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", "bytes=30-")
			good(content, `"1"`)(w, r)
		}, good(content, `"1"`)}, ranges: []string{"", `bytes=20- "1"`, ""}},
		{name: "range not satisfiable", does: []http.HandlerFunc{cut(20, `"1"`), says(416), good(content, `"1"`)}, ranges: []string{"", `bytes=20- "1"`, ""}},
		{name: "stalls, then gone on with", does: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"1"`)
			flush(w, content[:10])
			<-r.Context().Done()
		}, good(content, `"1"`)}, ranges: []string{"", `bytes=10- "1"`}},
		{name: "never answers", want: "does not answer", does: []http.HandlerFunc{func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}},
		{name: "drips for ever", want: "not done within 10m0s", does: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				flush(w, "x")
				time.Sleep(time.Second) // of the bubble's
			}
		}}},
		{name: "promises too much", want: "99999999 bytes are more than any file", does: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99999999")
			flush(w, content)
		}}},
		{name: "sends too much", want: "more than 1000 bytes", does: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			flush(w, strings.Repeat("x", 600))
			flush(w, strings.Repeat("x", 600))
		}}},
		{name: "promises too little", want: "is refused", refused: true, does: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			// The standard library's server would not let it through.
			connection, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n"+content)
				_ = connection.Close()
			}
		}}},
		{name: "too many requests", does: []http.HandlerFunc{says(429, "Retry-After", "1"), good(content, "")}, ranges: []string{"", ""}},
		{name: "too many requests, for long", does: []http.HandlerFunc{says(429, "Retry-After", "3600")}, want: "429 Too Many Requests"},
		{name: "out of order twice", does: []http.HandlerFunc{says(503), says(500), good(content, "")}, ranges: []string{"", "", ""}},
		{name: "out of order for good", does: []http.HandlerFunc{says(503)}, want: "503 Service Unavailable", ranges: []string{"", "", ""}},
		{name: "redirect to another host", does: []http.HandlerFunc{redirect(other)}},
		{name: "redirect to less than https", does: []http.HandlerFunc{redirect(plain)}, want: "redirects to " + plain + ": another scheme, and not https"},
		{name: "redirect in circles", does: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) }},
			want: "stopped after 10 redirects", ranges: make([]string, 10)},
	} {
		bubble := func(t *testing.T) {
			g := NewWithT(t)
			server := &bad{does: c.does}
			network := &memnet.Network{}
			mirror := network.Server(t, 443, server)
			mirror.StartTLS()
			network.Server(t, 444, good(content, "")).StartTLS()
			network.Server(t, 80, good(content, "")).Start()
			transport, ok := mirror.Client().Transport.(*http.Transport)
			g.Expect(ok).To(BeTrue())
			transport.DialContext = network.DialContext
			r := mirrorAt(t, mirror)
			r.limits = limits{within: 10 * time.Minute, wait: time.Minute, tries: 3, size: 1000}
			part := filepath.Join(t.TempDir(), "part")
			size, err := r.download(t.Context(), fileURL, sumOf(content), part)
			if c.ranges == nil {
				c.ranges = []string{""}
			}
			g.Expect(server.ranges()).To(Equal(c.ranges))
			g.Expect(server.asked[0].RequestURI).To(Equal("/github.com/k3s-io/k3s/releases/download/v1.34.2%2Bk3s1/k3s"), "a + is sent encoded")
			var refused *ChecksumError
			g.Expect(errors.As(err, &refused)).To(Equal(c.refused), "%v", err)
			if c.want == "" {
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(size).To(BeEquivalentTo(len(content)))
				g.Expect(os.ReadFile(part)).To(BeEquivalentTo(content))
				return
			}
			g.Expect(err).To(MatchError(And(ContainSubstring(c.want), ContainSubstring("/github.com/k3s-io/k3s/releases/download/v1.34.2%2Bk3s1/k3s"))))
		}
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, bubble) })
	}
}

// TestDownloadGoesOnLater: what an ended process got is gone on with, unless it
// came from somewhere else.
func TestDownloadGoesOnLater(t *testing.T) {
	g := NewWithT(t)
	part := filepath.Join(t.TempDir(), "part")
	first := &bad{does: []http.HandlerFunc{cut(20, `"1"`), good(content, `"1"`)}}
	r := serve(t, first)
	r.limits.tries = 1
	_, err := r.download(t.Context(), fileURL, sumOf(content), part)
	g.Expect(err).To(MatchError(ContainSubstring("after 20 bytes")))
	kept, err := os.ReadFile(part + partOriginSuffix)
	g.Expect(err).NotTo(HaveOccurred())

	elsewhere := &bad{does: []http.HandlerFunc{cut(30, `"1"`)}}
	e := serve(t, elsewhere)
	e.limits.tries = 1
	_, err = e.download(t.Context(), fileURL, sumOf(content), part)
	g.Expect(err).To(MatchError(ContainSubstring("after 30 bytes")))
	g.Expect(elsewhere.ranges()).To(Equal([]string{""}), "another server's ETag says nothing")

	g.Expect(os.WriteFile(part, []byte(content[:20]), 0o644)).To(Succeed())
	g.Expect(os.WriteFile(part+partOriginSuffix, kept, 0o644)).To(Succeed())
	_, err = r.download(t.Context(), fileURL, sumOf(content), part)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.ranges()).To(Equal([]string{"", `bytes=20- "1"`}))
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]string{
		"": "", "soon": "", "-1": "", "7": "retry after 7s",
		now.Add(9 * time.Second).Format(http.TimeFormat): "retry after 9s",
		now.Add(-time.Hour).Format(http.TimeFormat):      "retry after 0s",
	} {
		got := ""
		if err := retryAfter(header, now); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}

// TestCredentialsStay: those of a mirror are sent to it, and to nobody else.
func TestCredentialsStay(t *testing.T) {
	g := NewWithT(t)
	elsewhere := &bad{does: []http.HandlerFunc{good(content, "")}}
	other := httptest.NewTLSServer(elsewhere)
	t.Cleanup(other.Close)
	mirror := &bad{does: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) }}}
	r := serve(t, mirror)
	m, ok := r.transport.(*mirrorTransport)
	g.Expect(ok).To(BeTrue())
	with := *m.base
	with.User = url.UserPassword("me", "secret")
	guarded := serverMirror(&with, m.next)
	_, err := guarded.download(t.Context(), fileURL, sumOf(content), filepath.Join(t.TempDir(), "part"))
	g.Expect(err).NotTo(HaveOccurred())
	name, password, ok := mirror.asked[0].BasicAuth()
	g.Expect(ok).To(BeTrue())
	g.Expect(name + ":" + password).To(Equal("me:secret"))
	g.Expect(fmt.Sprint(elsewhere.asked[0].Header)).NotTo(Or(ContainSubstring("secret"), ContainSubstring("Authorization")))
	g.Expect(guarded.at(fileURL)).NotTo(ContainSubstring("secret"))
}
