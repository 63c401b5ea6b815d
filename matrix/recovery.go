package matrix

import "slices"

// Recovery is how a cluster came back from a restart, by what its API told an
// observer who looked all the time. Times count from right before the nodes, or
// the services, were told to restart.
type Recovery struct {
	// API is when the API was ready to answer, Ready when every node was Ready by
	// a report of its new start, and Pods when every pod was Ready with containers
	// of that start: each from then on to the end of the look. nil means that it
	// was not to be seen, 0 that it never was otherwise.
	API   *Duration `json:"api,omitempty"`
	Ready *Duration `json:"ready,omitempty"`
	Pods  *Duration `json:"pods,omitempty"`
	// Taints are those that Kubernetes gave nodes meanwhile, by the time at which
	// they were first seen.
	Taints []TaintSeen `json:"taints,omitempty"`
}

// TaintSeen is a taint that was on a node for a while.
type TaintSeen struct {
	Node string `json:"node"`
	// Taint is KEY:EFFECT.
	Taint string `json:"taint"`
	// Seen is when it was first there, Gone when it was first not there any more;
	// nil where it stayed to the end.
	Seen Duration  `json:"seen"`
	Gone *Duration `json:"gone,omitempty"`
}

// Figure is a distribution of times.
type Figure struct {
	// Name is api, ready or pods, as in Recovery.
	Name string `json:"name"`
	// Of is how many restarts it was seen of.
	Of  int      `json:"of"`
	P50 Duration `json:"p50"`
	P95 Duration `json:"p95"`
	Max Duration `json:"max"`
}

// Recoveries are the distributions of the recovery from several restarts, those
// that were seen at all.
func Recoveries(all []Recovery) (figures []Figure) {
	for _, f := range []struct {
		name string
		of   func(Recovery) *Duration
	}{
		{"api", func(r Recovery) *Duration { return r.API }},
		{"ready", func(r Recovery) *Duration { return r.Ready }},
		{"pods", func(r Recovery) *Duration { return r.Pods }},
	} {
		var times []Duration
		for _, r := range all {
			if d := f.of(r); d != nil {
				times = append(times, *d)
			}
		}
		if len(times) == 0 {
			continue
		}
		slices.Sort(times)
		figures = append(figures, Figure{Name: f.name, Of: len(times), P50: percentile(times, 50), P95: percentile(times, 95), Max: times[len(times)-1]})
	}
	return figures
}

// percentile is the least of sorted times that p percent of them do not exceed.
func percentile(sorted []Duration, p int) Duration {
	return sorted[max((len(sorted)*p+99)/100, 1)-1]
}
