package rancher

import (
	"fmt"
	"slices"
	"strings"
)

// Addon is what a product puts into every cluster unless it is told not to.
type Addon struct {
	// Disable are the names that a server's disable takes for it.
	Disable []string
	// Images are what it needs, each without registry and tag, alternatives of
	// other versions separated by |.
	Images []string
	// Reaches is what it sends to a server outside, which no plan names; it is
	// always left out then. Empty for those that keep to their cluster.
	Reaches string
}

// leftOut says why an add-on is disabled on nodes that have the images; empty
// where it is not.
func (a Addon) leftOut(images []string) string {
	names := strings.Join(a.Disable, ", ")
	if a.Reaches != "" {
		return fmt.Sprintf("%s is disabled where the version has it: it %s, and nodes reach nothing that the plan does not name", names, a.Reaches)
	}
	if lacking := a.Lacking(images); len(lacking) > 0 {
		return fmt.Sprintf("%s is disabled: the release's archives hold no image %s", names, strings.Join(lacking, ", "))
	}
	return ""
}

// Lacking are the images that an add-on needs and that are not among those
// that nodes have.
func (a Addon) Lacking(images []string) (lacking []string) {
	for _, need := range a.Images {
		if !slices.ContainsFunc(strings.Split(need, "|"), func(one string) bool {
			return slices.ContainsFunc(images, func(has string) bool { return repository(has) == one })
		}) {
			lacking = append(lacking, strings.ReplaceAll(need, "|", " or "))
		}
	}
	return lacking
}

// repository is the last part of an image's name, without its tag or digest.
func repository(image string) string {
	name := image[strings.LastIndex(image, "/")+1:]
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	return name
}
