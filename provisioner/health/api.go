package health

import (
	"context"
	"fmt"
	"strings"
)

// apiEndpoint asks /livez or /readyz what is wrong with the API server.
func apiEndpoint(name string) check {
	return check{name: "api-" + name, every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			body, err := s.api.raw(ctx, "/"+name, "verbose")
			f := finding{want: name + " check passed"}
			var failing []string
			passing := 0
			for line := range strings.Lines(string(body)) {
				switch {
				case strings.HasPrefix(line, "[-]"):
					failing = append(failing, strings.TrimSpace(line))
				case strings.HasPrefix(line, "[+]"):
					passing++
				}
			}
			switch {
			case len(failing) > 0:
				f.saw = strings.Join(failing, "; ")
			case err != nil:
				return nil, fmt.Errorf("get /%s: %w", name, err)
			case passing == 0 || !strings.HasSuffix(strings.TrimSpace(string(body)), name+" check passed"):
				f.saw = fmt.Sprintf("/%s answered %q", name, shorten(string(body)))
			default:
				f.ok, f.saw = true, fmt.Sprintf("%d of %d passed", passing, passing)
			}
			return []finding{f}, nil
		}
	}}
}

// shorten keeps a text fit for a line of a report.
func shorten(s string) string {
	const most = 300
	s = strings.TrimSpace(s)
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
