package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// connectWithin bounds how long a host that is not there holds a run up,
	// once.
	connectWithin = 3 * time.Second
	// stallsAfter is how long a server may send nothing.
	stallsAfter = 20 * time.Second
	// downloadWithin bounds one file however steadily it trickles.
	downloadWithin = 20 * time.Minute
	// largestFile is more than any file of a release has.
	largestFile = 1 << 30
	// largestText bounds checksums, version files and manifests.
	largestText = 4 << 20
)

// remote is upstream, or a mirror of it: the same URLs through another
// transport.
type remote struct {
	name      string
	transport http.RoundTripper
	client    *http.Client
	// newest lists the versions of a minor that lie there, where that can be
	// seen; it may be nil.
	newest func(minor string) []string
}

// newRemotes makes upstream and, where one is given, the mirror.
func newRemotes(mirror string, network http.RoundTripper) (map[string]*remote, error) {
	remotes := map[string]*remote{SourceUpstream: newRemote(SourceUpstream, network)}
	if mirror == "" {
		return remotes, nil
	}
	base, err := url.Parse(mirror)
	if err != nil {
		return nil, fmt.Errorf("open the mirror: %w", err)
	}
	switch {
	case base.Scheme == "file" && (base.Host == "" || base.Host == "localhost") && path.IsAbs(base.Path):
		r := newRemote(SourceMirror, &mirrorTransport{next: folderTransport(base.Path)})
		r.newest = func(minor string) []string {
			found, _ := filepath.Glob(filepath.Join(base.Path, "dl.k8s.io", "release", "v"+minor+".*"))
			for i, p := range found {
				found[i] = strings.TrimPrefix(filepath.Base(p), "v")
			}
			return found
		}
		remotes[SourceMirror] = r
	case base.Scheme == "https" && base.Host != "":
		remotes[SourceMirror] = newRemote(SourceMirror, &mirrorTransport{base: base, next: network})
	default:
		return nil, fmt.Errorf("open the mirror: %q is neither file:///PATH nor https://HOST", mirror)
	}
	return remotes, nil
}

func newRemote(name string, transport http.RoundTripper) *remote {
	return &remote{name: name, transport: transport, client: &http.Client{Transport: transport}}
}

// newNetwork is the transport of everything that leaves this machine.
func newNetwork() http.RoundTripper {
	dialer := &net.Dialer{Timeout: connectWithin}
	return &guard{stall: stallsAfter, next: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: connectWithin,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     30 * time.Second,
	}}
}

// guard bounds what a server can do to a run: one that does not answer is not
// asked again, one that stalls is left, and a redirect keeps its scheme.
type guard struct {
	next  http.RoundTripper
	stall time.Duration

	mu   sync.Mutex
	dead map[string]error
}

// RoundTrip sends one request.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if from := request.Response; from != nil && from.Request != nil && from.Request.URL.Scheme != request.URL.Scheme {
		return nil, fmt.Errorf("%s redirects to %s: another scheme", from.Request.URL.Redacted(), request.URL.Redacted())
	}
	host := request.URL.Host
	g.mu.Lock()
	err := g.dead[host]
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(request.Context())
	watch := time.AfterFunc(g.stall, func() { cancel(&stallError{host, g.stall}) })
	response, err := g.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		watch.Stop()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		cancel(err)
		if request.Context().Err() == nil && silence(err) {
			err = fmt.Errorf("%s does not answer: %w", host, err)
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.dead == nil {
				g.dead = map[string]error{}
			}
			g.dead[host] = err
		}
		return nil, err
	}
	response.Body = &watchedBody{ReadCloser: response.Body, ctx: ctx, cancel: cancel, watch: watch, stall: g.stall}
	return response, nil
}

// silence says whether an error means that a host is not there at all, as
// opposed to one connection that broke.
func silence(err error) bool {
	var operation *net.OpError
	var stalled *stallError
	var network net.Error
	return errors.As(err, &operation) && operation.Op == "dial" || errors.As(err, &stalled) || errors.As(err, &network) && network.Timeout()
}

// stallError is a server that stopped sending.
type stallError struct {
	host  string
	after time.Duration
}

// Error names the server.
func (e *stallError) Error() string { return fmt.Sprintf("%s sent nothing for %s", e.host, e.after) }

// watchedBody restarts the guard's watch with everything that arrives.
type watchedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *time.Timer
	stall  time.Duration
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.ctx.Err() != nil { // An EOF too: it may be of the cancelling's making.
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.watch.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// mirrorTransport turns https://HOST/PATH into BASE/HOST/PATH. A registry's
// part of a mirror is plain files under HOST/v2, so it says itself what a
// registry's server would.
type mirrorTransport struct {
	// base is nil where next has the files itself.
	base *url.URL
	next http.RoundTripper
}

// RoundTrip sends one request to the mirror.
func (m *mirrorTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Path == "/v2/" {
		return answer(request, http.StatusOK, http.NoBody, 0), nil
	}
	asked := request.URL.Path
	if request.Response == nil { // Where the mirror redirects to is as it says.
		moved := request.Clone(request.Context())
		target := &url.URL{Path: "/" + request.URL.Host + path.Clean("/"+request.URL.Path)}
		if m.base != nil {
			// A URL without a path would stay without its first slash.
			target = m.base.ResolveReference(&url.URL{Path: path.Join("/", m.base.Path, request.URL.Host, request.URL.Path)})
			moved.Host = m.base.Host
		}
		moved.URL = target
		request = moved
	}
	response, err := m.next.RoundTrip(request)
	if err == nil && response.Header.Get("Location") != "" {
		// Relative to the mirror, not to whom it stands for.
		if to, err := request.URL.Parse(response.Header.Get("Location")); err == nil {
			response.Header.Set("Location", to.String())
		}
	}
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(asked, "/manifests/") {
		return response, err
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, largestText))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", asked, err)
	}
	var manifest struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(content, &manifest); err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", asked, err)
	}
	response.Body = io.NopCloser(bytes.NewReader(content))
	response.Header.Set("Content-Type", manifest.MediaType)
	return response, nil
}

// folderTransport answers from files under a folder.
type folderTransport string

// RoundTrip opens one file.
func (f folderTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	file, err := os.Open(filepath.Join(string(f), filepath.FromSlash(path.Clean("/"+request.URL.Path))))
	if errors.Is(err, fs.ErrNotExist) {
		return answer(request, http.StatusNotFound, http.NoBody, 0), nil
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return answer(request, http.StatusNotFound, http.NoBody, 0), errors.Join(err, file.Close())
	}
	return answer(request, http.StatusOK, file, info.Size()), nil
}

func answer(request *http.Request, status int, body io.ReadCloser, size int64) *http.Response {
	return &http.Response{
		Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: body, ContentLength: size, Request: request,
	}
}

// statusError is an answer other than 200.
type statusError struct {
	address string
	code    int
}

// Error names the URL and the answer.
func (e *statusError) Error() string {
	return fmt.Sprintf("get %s: %d %s", e.address, e.code, http.StatusText(e.code))
}

// get opens a URL; anything but 200 is an error.
func (r *remote) get(ctx context.Context, address string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, &statusError{address, response.StatusCode}
	}
	return response, nil
}

// text is a small file's content, trimmed.
func (r *remote) text(ctx context.Context, address string) (string, error) {
	response, err := r.get(ctx, address)
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, largestText))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return "", fmt.Errorf("get %s: %w", address, err)
	}
	return strings.TrimSpace(string(content)), nil
}

var hexSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)

// checksum is what upstream says a file's SHA-256 is. The text at sums is
// nothing else, or has it in a line before the file's name.
func (r *remote) checksum(ctx context.Context, address, sums string) (string, error) {
	text, err := r.text(ctx, sums)
	if err != nil {
		return "", err
	}
	file := path.Base(address)
	for line := range strings.Lines(text) {
		sum, name, named := strings.Cut(strings.TrimSpace(line), " ")
		if hexSHA256.MatchString(sum) && (!named || strings.TrimLeft(name, " *") == file) {
			return sum, nil
		}
	}
	return "", fmt.Errorf("get %s: %q is no SHA-256 of %s", sums, tail(text, 100), file)
}

// download puts a file at target, checked against the checksum at sums. A file
// that differs is a *ChecksumError. What broke on the way is tried again, what
// was answered is not.
func (r *remote) download(ctx context.Context, address, sums, target string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, downloadWithin, fmt.Errorf("not done within %s", downloadWithin))
	defer cancel()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := r.downloadOnce(ctx, address, sums, target)
		if err != nil && !passing(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxTries(3))
	return err
}

// passing says whether trying again may help.
func passing(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 || status.code == http.StatusTooManyRequests
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

func (r *remote) downloadOnce(ctx context.Context, address, sums, target string) error {
	want, err := r.checksum(ctx, address, sums)
	if err != nil {
		return err
	}
	response, err := r.get(ctx, address)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.ContentLength > largestFile {
		return fmt.Errorf("get %s: %d bytes are more than any file of a release has", address, response.ContentLength)
	}
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(contextReader{ctx, response.Body}, largestFile+1))
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("get %s: after %d bytes: %w", address, n, err)
	}
	if n > largestFile {
		return fmt.Errorf("get %s: more than %d bytes, as no file of a release has", address, largestFile)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return &ChecksumError{Name: path.Base(address), Path: address, Got: got, Want: want, GotSize: n, WantSize: response.ContentLength}
	}
	return nil
}
