package incus

import (
	"io/fs"
	"net/http"
	"testing"

	. "github.com/onsi/gomega"
)

// TestPull: of a link Incus sends the path that it leads to, which is not what
// anybody who reads a file wants.
func TestPull(t *testing.T) {
	type entry struct{ kind, content string }
	files := map[string]entry{
		"/token": {"file", "K10"}, "/link": {"symlink", "/token"}, "/links": {"symlink", "/link"},
		"/lost": {"symlink", "/nowhere"}, "/round": {"symlink", "/round"}, "/folder": {"directory", `{"metadata": []}`},
	}
	url, cert := fakeServerOf(t, func(w http.ResponseWriter, r *http.Request) {
		switch f, there := files[r.URL.Query().Get("path")]; {
		case r.URL.Path == "/1.0":
			_, _ = w.Write([]byte(`{"type": "sync", "status": "Success", "status_code": 200, "metadata": {"auth": "trusted"}}`))
		case !there:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"type": "error", "error": "not found", "error_code": 404}`))
		default:
			w.Header().Set("X-Incus-Type", f.kind)
			_, _ = w.Write([]byte(f.content))
		}
	})
	g := NewWithT(t)
	s, err := ConnectHTTPS(t.Context(), url, clientTLS(t, cert))
	g.Expect(err).NotTo(HaveOccurred())
	defer s.Disconnect()
	i := s.Instance("one", "10.0.0.9")
	for _, path := range []string{"/token", "/link", "/links"} {
		g.Expect(i.Pull(t.Context(), path)).To(BeEquivalentTo("K10"), path)
	}
	for _, path := range []string{"/nothing", "/lost"} {
		_, err := i.Pull(t.Context(), path)
		g.Expect(err).To(MatchError(fs.ErrNotExist), path)
	}
	_, err = i.Pull(t.Context(), "/round")
	g.Expect(err).To(MatchError(ContainSubstring("pull /round from instance one: it is a link")))
	_, err = i.Pull(t.Context(), "/folder")
	g.Expect(err).To(MatchError(ContainSubstring("it is a folder")))
}
