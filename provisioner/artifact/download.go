package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// limits bound what one file may take.
type limits struct {
	// within bounds it however steadily it trickles, tries how often it is begun
	// or gone on with, and wait how long a server may have it wait between.
	within, wait time.Duration
	tries        uint
	// size is in bytes.
	size int64
}

// usual limits let the largest file through at a tenth of a small line's speed.
var usual = limits{within: time.Hour, wait: time.Minute, tries: 5, size: largestFile}

// brokenError is an answer that ended before its end: going on may help.
type brokenError struct{ err error }

// Error is the cause's.
func (e *brokenError) Error() string { return e.err.Error() }

// Unwrap is the cause.
func (e *brokenError) Unwrap() error { return e.err }

// passing says whether trying again may help.
func (l limits) passing(err error) bool {
	var again *backoff.RetryAfterError
	if errors.As(err, &again) && again.Duration > l.wait {
		return false
	}
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 || status.code == http.StatusTooManyRequests
	}
	var broken *brokenError
	return errors.As(err, &broken) || errors.Is(err, syscall.ECONNRESET)
}

// retry tries what is passing again: after a while, or when the server says.
func retry[T any](ctx context.Context, l limits, try func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.within, fmt.Errorf("not done within %s", l.within))
	defer cancel()
	return backoff.Retry(ctx, func() (T, error) {
		got, err := try(ctx)
		if err != nil && !l.passing(err) {
			err = backoff.Permanent(err)
		}
		return got, err
	}, backoff.WithMaxTries(l.tries))
}

// retryAfter reads the header of that name, seconds or a date; nil where it says
// nothing.
func retryAfter(header string, now time.Time) error {
	if seconds, err := strconv.Atoi(header); err == nil && seconds >= 0 {
		return backoff.RetryAfter(seconds)
	}
	if at, err := http.ParseTime(header); err == nil {
		return &backoff.RetryAfterError{Duration: max(0, at.Sub(now))}
	}
	return nil
}

// download puts a file at part, whose SHA-256 is want, and says how long it is.
// What a broken attempt got, in this process or an earlier one, is gone on with
// as long as the server says that the file is the same. A whole file that
// differs is a *ChecksumError.
func (r *remote) download(ctx context.Context, address, want, part string) (size int64, err error) {
	return retry(ctx, r.limits, func(ctx context.Context) (int64, error) {
		p, err := openPart(part, r.at(address))
		if err != nil {
			return 0, fmt.Errorf("get %s: %w", r.at(address), err)
		}
		size, err := r.fill(ctx, address, want, p)
		return size, errors.Join(err, p.close(err))
	})
}

// fill gets what is missing of a file, and checks the whole.
func (r *remote) fill(ctx context.Context, address, want string, p *partFile) (int64, error) {
	at := r.at(address)
	header, accepted := http.Header{}, []int{http.StatusOK}
	if p.size > 0 {
		// Without If-Range, the rest might be of another file.
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.size))
		header.Set("If-Range", p.Validator)
		accepted = append(accepted, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	}
	response, err := r.get(ctx, address, header, accepted...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	resumed := response.StatusCode == http.StatusPartialContent
	if response.StatusCode == http.StatusRequestedRangeNotSatisfiable || resumed && !p.continues(response.Header) {
		return 0, errors.Join(p.restart(""), &brokenError{fmt.Errorf("get %s: %d %s is not what is missing of it", at, response.StatusCode, response.Header.Get("Content-Range"))})
	}
	if !resumed {
		if err := p.restart(validator(response.Header)); err != nil {
			return 0, fmt.Errorf("get %s: %w", at, err)
		}
	}
	if p.size+response.ContentLength > r.limits.size {
		return 0, errors.Join(p.restart(""), fmt.Errorf("get %s: %d bytes are more than any file of a release has", at, p.size+response.ContentLength))
	}
	_, err = io.Copy(p, io.LimitReader(contextReader{ctx, response.Body}, r.limits.size-p.size+1))
	if p.size > r.limits.size {
		return 0, errors.Join(p.restart(""), fmt.Errorf("get %s: more than %d bytes, as no file of a release has", at, r.limits.size))
	}
	if err != nil {
		err = fmt.Errorf("get %s: after %d bytes: %w", at, p.size, err)
		if ctx.Err() == nil {
			err = &brokenError{err}
		}
		return 0, err
	}
	got, err := hashFile(ctx, p.file.Name())
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", at, err)
	}
	if got.SHA256 == want {
		return got.Size, nil
	}
	wrong := error(&ChecksumError{Name: path.Base(at), Path: at, Got: got.SHA256, Want: want, GotSize: got.Size, WantSize: -1})
	if resumed {
		// What was there before may be to blame.
		wrong = &brokenError{wrong}
	}
	return 0, errors.Join(wrong, p.restart(""))
}

// partFile is what there is of a file, and where that came from.
type partFile struct {
	file *os.File
	size int64
	partOrigin
}

// partOrigin is in a file beside it.
type partOrigin struct {
	// From is the URL or path that it came from.
	From string `json:"from"`
	// Validator is what that called this version of it: an ETag or a date.
	Validator string `json:"validator"`
}

// openPart opens what there is of a file; it counts only if it came from the
// same place, which can tell whether it is still the same.
func openPart(name, from string) (*partFile, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	p := &partFile{file: f}
	text, err := os.ReadFile(p.origin())
	if err == nil {
		err = json.Unmarshal(text, &p.partOrigin)
	}
	if err != nil || p.From != from || p.Validator == "" {
		p.partOrigin = partOrigin{From: from}
		return p, p.restart("")
	}
	p.size, err = f.Seek(0, io.SeekEnd)
	return p, err
}

// partOriginSuffix ends the name of the file beside it.
const partOriginSuffix = ".json"

func (p *partFile) origin() string { return p.file.Name() + partOriginSuffix }

// restart empties it, for what the server calls validator.
func (p *partFile) restart(validator string) error {
	p.size, p.Validator = 0, validator
	text, err := jsonBytes(p.partOrigin)
	if err != nil {
		return err
	}
	_, seekErr := p.file.Seek(0, io.SeekStart)
	return errors.Join(seekErr, p.file.Truncate(0), os.WriteFile(p.origin(), text, 0o644))
}

// close ends an attempt. After one that failed, what cannot be gone on with is
// removed.
func (p *partFile) close(failed error) error {
	err := p.file.Close()
	if failed != nil && (p.size == 0 || p.Validator == "") {
		err = errors.Join(err, os.Remove(p.file.Name()), os.Remove(p.origin()))
	}
	return err
}

// Write adds to it.
func (p *partFile) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	p.size += int64(n)
	return n, err
}

// continues says whether an answer of 206 begins where the file ends, and is of
// the same version of it.
func (p *partFile) continues(h http.Header) bool {
	now := validator(h)
	return strings.HasPrefix(h.Get("Content-Range"), fmt.Sprintf("bytes %d-", p.size)) && (now == "" || now == p.Validator)
}

// validator is what tells versions of a file apart, as If-Range takes it: a
// strong ETag or, without one, the date.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	return h.Get("Last-Modified")
}
