package artifact

import (
	"bytes"
	"context"
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
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// connectWithin bounds how long a host that is not there holds a run up,
	// once.
	connectWithin = 3 * time.Second
	// stallsAfter is how long a server may send nothing.
	stallsAfter = 20 * time.Second
	// largestFile is more than any file of a release has.
	largestFile = 4 << 30
	// largestText bounds checksums, channel documents and manifests.
	largestText = 4 << 20
)

// remote is upstream, or a mirror of it: the same URLs through another
// transport.
type remote struct {
	name      string
	transport http.RoundTripper
	client    *http.Client
	limits    limits
	// at is where an upstream URL is really asked for, for people.
	at func(address string) string
	// list names the versions that have a folder under a URL, where folders can be
	// listed; it may be nil.
	list func(address string) ([]string, error)
}

// newRemotes makes upstream and, where one is given, the mirror.
func newRemotes(mirror string, network http.RoundTripper) (map[string]*remote, error) {
	remotes := map[string]*remote{SourceUpstream: newRemote(SourceUpstream, network)}
	if mirror == "" {
		return remotes, nil
	}
	wrong := fmt.Errorf("open the mirror: %q is neither a folder's path nor file:///PATH, http://HOST or https://HOST", mirror)
	base, err := url.Parse(mirror)
	switch {
	case !strings.Contains(mirror, "://"):
		dir, err := filepath.Abs(mirror)
		if err != nil {
			return nil, fmt.Errorf("open the mirror: %w", err)
		}
		remotes[SourceMirror] = folderMirror(dir)
	case err != nil:
		return nil, wrong
	case base.Scheme == "file" && (base.Host == "" || base.Host == "localhost") && path.IsAbs(base.Path):
		remotes[SourceMirror] = folderMirror(base.Path)
	case (base.Scheme == "https" || base.Scheme == "http") && base.Host != "":
		remotes[SourceMirror] = serverMirror(base, network)
	default:
		return nil, wrong
	}
	return remotes, nil
}

func newRemote(name string, transport http.RoundTripper) *remote {
	return &remote{name: name, transport: transport, client: &http.Client{Transport: transport}, limits: usual, at: func(address string) string { return address }}
}

// folderMirror is a mirror in a folder of this machine.
func folderMirror(dir string) *remote {
	r := newRemote(SourceMirror, &mirrorTransport{next: folderTransport(dir)})
	r.at = func(address string) string { return filepath.Join(dir, filepath.FromSlash(mirrored(address))) }
	r.list = func(address string) ([]string, error) {
		entries, err := os.ReadDir(r.at(address))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		var versions []string
		for _, e := range entries {
			if version, ok := strings.CutPrefix(e.Name(), "v"); ok {
				versions = append(versions, version)
			}
		}
		return versions, err
	}
	return r
}

// serverMirror is a mirror on a server.
func serverMirror(base *url.URL, network http.RoundTripper) *remote {
	m := &mirrorTransport{base: base, next: network}
	r := newRemote(SourceMirror, m)
	r.at = func(address string) string {
		u, err := url.Parse(address)
		if err != nil {
			return address
		}
		return m.target(u).Redacted()
	}
	return r
}

// mirrored is where a mirror has an upstream URL's file: HOST/PATH, decoded.
func mirrored(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return u.Host + path.Clean("/"+u.Path)
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
// asked again, one that stalls is left, and a redirect never leads from https to
// anything less. It may lead to another host, as those of upstream's releases do:
// what comes from there is checked like everything else, and credentials of the
// first host stay with it.
type guard struct {
	next  http.RoundTripper
	stall time.Duration

	mu   sync.Mutex
	dead map[string]error
}

// RoundTrip sends one request.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if from := request.Response; from != nil && from.Request != nil && request.URL.Scheme != "https" && from.Request.URL.Scheme != request.URL.Scheme {
		return nil, &redirectError{from.Request.URL.Redacted(), request.URL.Redacted()}
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

// redirectError is a redirect to where nothing protects what is fetched.
type redirectError struct{ from, to string }

// Error names both ends.
func (e *redirectError) Error() string {
	return fmt.Sprintf("%s redirects to %s: another scheme, and not https", e.from, e.to)
}

// silence says whether an error means that a host is not there at all, as
// opposed to one connection that broke.
func silence(err error) bool {
	var operation *net.OpError
	var stalled *stallError
	var network net.Error
	return errors.As(err, &operation) && (operation.Op == "dial" || operation.Op == "proxyconnect") || errors.As(err, &stalled) || errors.As(err, &network) && network.Timeout()
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
		moved.URL = m.target(request.URL)
		if m.base != nil {
			moved.Host = m.base.Host
			if password, ok := m.base.User.Password(); ok {
				moved.SetBasicAuth(m.base.User.Username(), password)
			}
		}
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

// target is where the mirror has an upstream URL's file. A + is sent encoded:
// there are servers that read a space where it is not, and none that mind.
func (m *mirrorTransport) target(address *url.URL) *url.URL {
	if m.base == nil {
		return &url.URL{Path: "/" + address.Host + path.Clean("/"+address.Path)}
	}
	target := *m.base
	target.Path, target.RawPath = path.Join("/", m.base.Path, address.Host, address.Path), ""
	target.RawPath = strings.ReplaceAll(target.EscapedPath(), "+", "%2B")
	return &target
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

// statusError is an answer other than what was asked for.
type statusError struct {
	at   string
	code int
	// again is when the server wants to be asked again, a
	// *backoff.RetryAfterError; nil where it does not say.
	again error
}

// Error names the URL and the answer.
func (e *statusError) Error() string {
	return fmt.Sprintf("get %s: %d %s", e.at, e.code, http.StatusText(e.code))
}

// Unwrap gives the time that the server asks for to whoever retries.
func (e *statusError) Unwrap() error { return e.again }

// get asks for a URL; an answer that is none of wanted is an error.
func (r *remote) get(ctx context.Context, address string, header http.Header, wanted ...int) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", r.at(address), err)
	}
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := r.client.Do(request)
	if err != nil {
		var shown *url.Error
		if errors.As(err, &shown) { // It names where upstream has it.
			err = shown.Err
		}
		return nil, fmt.Errorf("get %s: %w", r.at(address), err)
	}
	if slices.Contains(wanted, response.StatusCode) {
		return response, nil
	}
	_ = response.Body.Close()
	e := &statusError{at: r.at(address), code: response.StatusCode}
	if e.code == http.StatusTooManyRequests || e.code == http.StatusServiceUnavailable {
		e.again = retryAfter(response.Header.Get("Retry-After"), time.Now())
	}
	return nil, e
}

// text is a small file's content, trimmed.
func (r *remote) text(ctx context.Context, address string) (string, error) {
	return retry(ctx, r.limits, func(ctx context.Context) (string, error) {
		response, err := r.get(ctx, address, nil, http.StatusOK)
		if err != nil {
			return "", err
		}
		content, err := io.ReadAll(io.LimitReader(response.Body, largestText+1))
		if err = errors.Join(err, response.Body.Close()); err != nil {
			return "", &brokenError{fmt.Errorf("get %s: %w", r.at(address), err)}
		}
		if len(content) > largestText {
			return "", fmt.Errorf("get %s: more than the %d bytes that such a text may have", r.at(address), largestText)
		}
		return strings.TrimSpace(string(content)), nil
	})
}

var hexSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)

// checksum is what upstream says a file's SHA-256 is. The text of its checksums
// is nothing else, or has it in a line before the file's name.
func (r *remote) checksum(ctx context.Context, d download) (string, error) {
	text, err := r.text(ctx, d.Checksums)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		sum, name, named := strings.Cut(strings.TrimSpace(line), " ")
		if hexSHA256.MatchString(sum) && (!named || strings.TrimLeft(name, " *") == d.name()) {
			return sum, nil
		}
	}
	return "", fmt.Errorf("get %s: it has no SHA-256 of %s; it ends in %q", r.at(d.Checksums), d.name(), tail(text, 100))
}

// has says whether a file is there, without getting it; one that is not is a
// *statusError.
func (r *remote) has(ctx context.Context, address string) error {
	_, err := retry(ctx, r.limits, func(ctx context.Context) (struct{}, error) {
		response, err := r.get(ctx, address, http.Header{"Range": {"bytes=0-0"}}, http.StatusOK, http.StatusPartialContent)
		if err == nil {
			err = response.Body.Close()
		}
		return struct{}{}, err
	})
	return err
}
