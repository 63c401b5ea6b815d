package incus

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	client "github.com/lxc/incus/v6/client"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// answers are given one after the other, whatever is asked; the last again and
// again.
type answers [][]byte

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	body := (*a)[0]
	if len(*a) > 1 {
		*a = (*a)[1:]
	}
	status := http.StatusOK
	if bytes.HasPrefix(body, []byte("404")) {
		status, body = http.StatusNotFound, body[3:]
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

// FuzzAnswers: whatever a server answers, every call ends, in what it asked for
// or an error.
func FuzzAnswers(f *testing.F) {
	const done = `{"type":"async","status":"Operation created","status_code":100,"operation":"/1.0/operations/a","metadata":{"id":"a","class":"task","status":"Success","status_code":200,"metadata":{"fingerprint":"aa"}}}`
	for _, one := range []string{
		`{"type":"sync","status":"Success","status_code":200,"metadata":{"auth":"trusted","environment":{"server_clustered":true,"driver":"lxc | qemu","driver_version":"6.0"},"config":{"raw.lxc":"a"},"devices":{"root":{"type":"disk","path":"/","pool":"p"}},"status":"Running","status_code":103}}`,
		`{"type":"sync","status_code":200,"metadata":[{"name":"one","config":{"user.lxcmatrix.run":"r"},"devices":{"eth0":{"ipv4.address":"10.0.0.9"}}}]}`,
		`{"type":"sync","status_code":200,"metadata":null}`, `{"type":"error","error":"no","error_code":503}`, `[]`, ``, `{"type":"async","metadata":null}`, done,
	} {
		f.Add([]byte(one), []byte(done), []byte(`404{"type":"error","error":"not found","error_code":404}`))
	}
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		calls := []func(context.Context, *Server){
			func(ctx context.Context, s *Server) { _, _ = s.Facts(ctx) },
			func(ctx context.Context, s *Server) { _, _ = s.Members(ctx) },
			func(ctx context.Context, s *Server) { _, _ = s.Resources(ctx) },
			func(ctx context.Context, s *Server) { _, _ = s.Free(ctx) },
			func(ctx context.Context, s *Server) { _ = s.Use(ctx, "", "") },
			func(ctx context.Context, s *Server) { _ = s.Prepare(ctx, Storage{Pool: "p"}, Bridge{Name: "b"}) },
			func(ctx context.Context, s *Server) { _, _ = s.NetworkAddress(ctx) },
			func(ctx context.Context, s *Server) { _ = s.MoveNetwork(ctx, "10.0.0.1/24") },
			func(ctx context.Context, s *Server) { _, _ = s.Owned(ctx) },
			func(ctx context.Context, s *Server) { _, _ = s.Images(ctx) },
			func(ctx context.Context, s *Server) { _, _, _ = s.Image(ctx, "one") },
			func(ctx context.Context, s *Server) { _, _ = s.UploadImage(ctx, "one", bytes.NewReader(nil)) },
			func(ctx context.Context, s *Server) { _ = s.DeleteImage(ctx, "aa") },
			func(ctx context.Context, s *Server) { _ = s.Settle(ctx) },
			func(ctx context.Context, s *Server) { _, _ = s.Create(ctx, provisioner.NodeSpec{Name: "one"}) },
			func(ctx context.Context, s *Server) { _ = s.Instance("one", "").Restart(ctx) },
			func(ctx context.Context, s *Server) { _ = s.Instance("one", "").ForceRestart(ctx) },
			func(ctx context.Context, s *Server) { _, _ = s.Instance("one", "").Pull(ctx, "/etc/os-release") },
			func(ctx context.Context, s *Server) { _, _ = s.Instance("one", "").Console(ctx) },
			func(ctx context.Context, s *Server) { _ = s.Instance("one", "").Delete(ctx) },
		}
		synctest.Test(t, func(t *testing.T) {
			for _, call := range calls {
				args := arguments()
				args.SkipGetServer = true
				c, err := client.ConnectIncusHTTP(args, &http.Client{Transport: &answers{a, b, c}})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				call(ctx, &Server{conn: c.(*client.ProtocolIncus), project: ProjectName, pool: "p"})
				cancel()
			}
		})
	})
}
