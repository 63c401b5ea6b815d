package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Resolve turns a version as a matrix declares it (a minor, "1.34", an exact
// one, "1.34.4", or a channel, "stable") into the exact one and the inputs that
// cells are made of. Minors and channels become what the first of the sources
// has that answers: what a mirror or upstream says is newest, else the newest
// that lies in a mirror's folder, or what is built; and the same in every call.
// Inputs have a digest where the bytes exist somewhere already. Where no source
// has the version, the error is a *provisioner.UnavailableError.
func (s *Store) Resolve(ctx context.Context, wanted Request) (exact string, inputs []matrix.Input, err error) {
	wanted, err = s.normal(wanted)
	if err != nil {
		return "", nil, fmt.Errorf("resolve %s: %w", wanted, err)
	}
	if wanted.Version, err = s.exact(ctx, wanted); err != nil {
		return "", nil, err
	}
	unavailable := &provisioner.UnavailableError{What: wanted.String()}
	for _, source := range s.sources {
		inputs, err := s.inputs(ctx, source, wanted)
		if err == nil {
			return wanted.Version, inputs, nil
		}
		if ctx.Err() != nil {
			return "", nil, fmt.Errorf("resolve %s: %w", wanted, context.Cause(ctx))
		}
		unavailable.Tried = append(unavailable.Tried, source+": "+err.Error())
	}
	return wanted.Version, nil, unavailable
}

// normal is a request in the one way that the store writes it: no v, and every
// part by name.
func (s *Store) normal(wanted Request) (Request, error) {
	wanted.Version = strings.TrimPrefix(wanted.Version, "v")
	u := s.upstreams[wanted.Distro]
	if len(wanted.Parts) == 0 {
		wanted.Parts = u.Parts[:min(1, len(u.Parts))]
	}
	none := len(u.Parts) > 0 && slices.Equal(wanted.Parts, []string{PartNone})
	for _, p := range wanted.Parts {
		if !slices.Contains(u.Parts, p) && !none {
			return wanted, fmt.Errorf("%s has no part %q; it has %s", wanted.Distro, p, orNone(strings.Join(u.Parts, ", ")))
		}
	}
	wanted.Parts = slices.Sorted(slices.Values(wanted.Parts))
	return wanted, nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Parts are those of names, such as a cell's variants, that are parts of a
// distribution's releases, or PartNone where one of them stands for none.
func (s *Store) Parts(distro string, names []string) (parts []string) {
	u := s.upstreams[distro]
	for _, name := range names {
		switch {
		case slices.Contains(u.Parts, name):
			parts = append(parts, name)
		case slices.Contains(u.Partless, name):
			parts = append(parts, PartNone)
		}
	}
	return parts
}

// resolved is what one version turned out to be.
type resolved struct {
	version string
	err     error
}

// exact resolves a version, each once: cells of one plan must not differ
// because a release came out meanwhile.
func (s *Store) exact(ctx context.Context, wanted Request) (string, error) {
	if strings.Count(wanted.Version, ".") >= 2 {
		if _, err := s.upstreams[wanted.Distro].exact(wanted.Version); err != nil {
			return "", fmt.Errorf("resolve %s: %w", wanted, err)
		}
		return wanted.Version, nil
	}
	if u := s.upstreams[wanted.Distro]; !isMinor(wanted.Version) && u.Channels == "" {
		return "", fmt.Errorf("resolve %s: neither a version nor a minor, and %s has no channels", wanted, wanted.Distro)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := wanted.Distro + "@" + wanted.Version
	known, there := s.versions[key]
	if !there {
		known.version, known.err = s.lock.version(key)
		switch {
		case known.err != nil:
			known.err = &provisioner.UnavailableError{What: wanted.Distro + " " + wanted.Version, Tried: []string{known.err.Error()}}
		case known.version == "":
			known.version, known.err = s.newest(ctx, wanted)
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("resolve %s: %w", wanted, context.Cause(ctx))
		}
		if known.err == nil {
			s.lock.addVersion(key, known.version)
		}
		s.versions[key] = known
	}
	return known.version, known.err
}

// newest is what a minor or channel is, by the first source that answers. The
// cache comes last: what it has is what once was newest.
func (s *Store) newest(ctx context.Context, wanted Request) (string, error) {
	order := slices.DeleteFunc(slices.Clone(s.sources), func(x string) bool { return x == SourceCache })
	if len(order) < len(s.sources) {
		order = append(order, SourceCache)
	}
	unavailable := &provisioner.UnavailableError{What: wanted.Distro + " " + wanted.Version}
	for _, source := range order {
		version, err := s.newestFrom(ctx, source, wanted)
		if err == nil {
			return version, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		unavailable.Tried = append(unavailable.Tried, source+": "+err.Error())
	}
	return "", unavailable
}

func (s *Store) newestFrom(ctx context.Context, source string, wanted Request) (string, error) {
	switch source {
	case SourceCache:
		releases, err := s.List()
		if err != nil {
			return "", err
		}
		var versions []string
		for _, r := range releases {
			if r.Distro == wanted.Distro && slices.Contains(s.sources, r.Source) {
				versions = append(versions, r.Version)
			}
		}
		return s.upstreams[wanted.Distro].newestOf(versions, wanted.Version)
	case SourceBuild:
		r, found := s.recipe(wanted.Distro, wanted.Version)
		if !found || r.Minor != wanted.Version {
			return "", s.notBuilt(wanted)
		}
		return r.Version, nil
	}
	from, u, err := s.remote(source, wanted.Distro)
	if err != nil {
		return "", err
	}
	version, err := u.named(ctx, from, wanted.Version)
	var status *statusError
	if from.list == nil || !errors.As(err, &status) || status.code != http.StatusNotFound {
		return version, err
	}
	// A folder may have releases and nothing that names the newest.
	versions, listErr := from.list(u.folders())
	if listErr == nil {
		version, listErr = u.newestOf(versions, wanted.Version)
	}
	if listErr != nil {
		return "", fmt.Errorf("%w; and %s %w", err, from.at(u.folders()), listErr)
	}
	return version, nil
}

// named asks what the distribution's own document names as a minor's or a
// channel's version.
func (u upstream) named(ctx context.Context, from *remote, wanted string) (string, error) {
	address, text, err := u.Channels, "", error(nil)
	if address == "" {
		address = strings.ReplaceAll(u.Newest, "{minor}", wanted)
	}
	if text, err = from.text(ctx, address); err != nil {
		return "", err
	}
	if u.Channels != "" {
		if text, err = channelLatest(text, wanted); err != nil {
			return "", fmt.Errorf("%s %w", from.at(address), err)
		}
	}
	v, err := u.exact(strings.TrimPrefix(text, "v"))
	if err != nil {
		return "", fmt.Errorf("%s: what it names for %s: %w", from.at(address), wanted, err)
	}
	if isMinor(wanted) && matrix.MinorOf(v.String()) != wanted {
		return "", fmt.Errorf("%s names %s for %s", from.at(address), v, wanted)
	}
	return v.String(), nil
}

// isMinor tells a minor from a channel.
func isMinor(wanted string) bool { return strings.Contains(wanted, ".") }

// channelDocument is what a channel server answers: a collection of channels,
// each with the newest version on it. What else is in it is others' business.
type channelDocument struct {
	Type string    `json:"type"`
	Data []channel `json:"data"`
}

type channel struct {
	// ID and Name are the same; the document has both.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Latest has a leading v; empty where no release is on the channel.
	Latest string `json:"latest"`
}

// channelLatest finds a channel's version in a channel server's document; that
// of a minor is called v1.34.
func channelLatest(text, wanted string) (string, error) {
	name := wanted
	if isMinor(wanted) {
		name = "v" + wanted
	}
	var document channelDocument
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		return "", fmt.Errorf("is no document of a channel server: %w", err)
	}
	if len(document.Data) == 0 {
		return "", errors.New("is no document of a channel server: it has no data")
	}
	var names []string
	latest := map[string]string{}
	for _, c := range document.Data {
		if c.Name == "" {
			c.Name = c.ID
		}
		if _, twice := latest[c.Name]; twice || c.Name == "" {
			return "", fmt.Errorf("is no document of a channel server: a channel %q is there without a name, or twice", c.Name)
		}
		names, latest[c.Name] = append(names, c.Name), c.Latest
	}
	switch version, there := latest[name]; {
	case !there:
		return "", fmt.Errorf("has no channel %s; it has %s", name, strings.Join(names, ", "))
	case version == "":
		return "", fmt.Errorf("names no version for channel %s", name)
	default:
		return version, nil
	}
}

// newestOf is the newest final version of a minor, or of all for the channels
// stable and latest. What another channel means only its document can say.
func (u upstream) newestOf(versions []string, wanted string) (string, error) {
	if !isMinor(wanted) && wanted != "stable" && wanted != "latest" {
		return "", fmt.Errorf("cannot tell what channel %s is", wanted)
	}
	var newest *semver.Version
	for _, text := range versions {
		v, err := u.exact(text)
		if err != nil || v.Prerelease() != "" || isMinor(wanted) && matrix.MinorOf(text) != wanted {
			continue
		}
		if newest == nil || newer(v, newest) {
			newest = v
		}
	}
	if newest == nil {
		return "", fmt.Errorf("has no version of %s", wanted)
	}
	return newest.String(), nil
}

// notBuilt says that nothing here builds a release, and what of its
// distribution can be built.
func (s *Store) notBuilt(wanted Request) error {
	var versions []string
	for _, r := range s.recipes {
		if r.Distro == wanted.Distro {
			versions = append(versions, r.Version)
		}
	}
	return fmt.Errorf("no recipe to build %s; of %s there is %s", wanted, wanted.Distro, orNone(strings.Join(versions, ", ")))
}

// inputs says what a source would give of a release, all of which is there.
func (s *Store) inputs(ctx context.Context, source string, wanted Request) ([]matrix.Input, error) {
	input := func(name, digest, source, provenance string) matrix.Input {
		return matrix.Input{Kind: "artifact", Name: wanted.Distro + "/" + name, Version: wanted.Version, Digest: digest, Source: source, Provenance: provenance}
	}
	r, found := s.recipe(wanted.Distro, wanted.Version)
	var inputs []matrix.Input
	switch source {
	case SourceCache:
		release, err := s.cached(ctx, wanted, s.sources)
		if err != nil {
			return nil, err
		}
		for _, f := range release.Files {
			inputs = append(inputs, input(f.Name, f.SHA256, SourceCache, release.Provenance))
		}
	case SourceBuild:
		if !found || r.Version != wanted.Version {
			return nil, s.notBuilt(wanted)
		}
		if err := s.mayBuild(wanted); err != nil {
			return nil, err
		}
		if _, err := findGo(ctx); err != nil {
			return nil, err
		}
		for _, name := range append(slices.Clone(r.Binaries), ImagesName) {
			inputs = append(inputs, input(name, "", SourceBuild, ProvenanceBuilt))
		}
	default:
		from, u, err := s.remote(source, wanted.Distro)
		if err != nil {
			return nil, err
		}
		var missing []string
		for _, d := range s.downloads(u, r, wanted) {
			sum, err := s.checksum(ctx, from, d)
			if err != nil {
				return nil, err
			}
			err = from.has(ctx, d.URL)
			var status *statusError
			switch {
			case errors.As(err, &status) && status.code == http.StatusNotFound:
				missing = append(missing, err.Error())
			case err != nil:
				return nil, err
			}
			inputs = append(inputs, input(d.name(), sum, source, ProvenanceRelease))
		}
		if len(missing) > 0 {
			return nil, errors.New(strings.Join(missing, "; "))
		}
		images := input(ImagesName, "", source, ProvenanceRelease)
		if len(u.Images) == 0 { // There are only ours in it.
			images.Source, images.Provenance = SourceBuild, ProvenanceBuilt
		}
		inputs = append(inputs, images)
	}
	return inputs, nil
}
