package export

import (
	"embed"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v4"
	"mvdan.cc/sh/v3/syntax"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

//go:embed templates
var templates embed.FS

// variables are what the node knows or is told, and what stands for it in the
// steps.
func variables() map[string]string {
	told := Invitation(matrix.RoleServer)
	return map[string]string{"node_name": NodeName, "node_address": NodeAddress, "gateway": Gateway,
		"server": told.Server, "token": told.Token, "ca_hash": told.CAHash, "certificate_key": told.CertificateKey}
}

// asked are the variables that only whoever applies a part can tell, and what
// they are.
func asked(p Part) [][2]string {
	var all [][2]string
	for _, v := range [][2]string{{"server", "the first server's address"}, {"token", "a token of the cluster"},
		{"ca_hash", "the digest of the cluster's CA, sha256:..."}, {"certificate_key", "the key of the control plane's certificates"}} {
		if p.Wants(v[0]) {
			all = append(all, v)
		}
	}
	return all
}

// Wants says whether a part needs something that only the node knows, by the
// variable's name.
func (p Part) Wants(variable string) bool {
	return slices.ContainsFunc(p.Files, func(f provisioner.File) bool { return strings.Contains(f.Content, variables()[variable]) })
}

// Units says whether systemd has to read a file of the part's.
func (p Part) Units() bool {
	return slices.ContainsFunc(p.Files, func(f provisioner.File) bool { return strings.HasPrefix(f.Path, "/etc/systemd/") })
}

// render fills a template in.
func render(name string, data any) (string, error) {
	t, err := template.New(name).Funcs(template.FuncMap{"quote": quote, "terminator": terminator, "join": strings.Join, "upper": strings.ToUpper, "holders": holders, "asked": asked,
		"dir": path.Dir, "template_of": isTemplate, "relative": relative}).ParseFS(templates, "templates/"+name)
	if err != nil {
		return "", fmt.Errorf("read template %s: %w", name, err)
	}
	var out strings.Builder
	if err := t.Execute(&out, data); err != nil {
		return "", fmt.Errorf("fill template %s in: %w", name, err)
	}
	return out.String(), nil
}

// quote makes words of a POSIX shell's command.
func quote(words ...string) (string, error) {
	var quoted []string
	for _, w := range words {
		q, err := syntax.Quote(w, syntax.LangPOSIX)
		if err != nil {
			return "", err
		}
		quoted = append(quoted, q)
	}
	return strings.Join(quoted, " "), nil
}

// terminator is a line that ends a file in a script, and is none of its own.
func terminator(content string) string {
	end := "END"
	for slices.Contains(strings.Split(content, "\n"), end) {
		end += "_"
	}
	return end
}

// holders are the variables and what stands for them, sorted, of a part that
// wants them.
func holders(p Part) [][2]string {
	var all [][2]string
	for _, name := range slices.Sorted(maps.Keys(variables())) {
		if p.Wants(name) {
			all = append(all, [2]string{name, variables()[name]})
		}
	}
	return all
}

// apart is one part of the steps, with what is said of all.
type apart struct {
	Steps
	Part Part
	// Start and Notes are a node's.
	Start, Notes []string
}

// of is the part of nodes.
func (s Steps) of(n Node) apart { return apart{s, n.Part, n.Start, n.Notes} }

// parts are those that have something to do.
func (s Steps) parts() []apart {
	var all []apart
	if len(s.Host.Files) > 0 {
		all = append(all, apart{Steps: s, Part: s.Host})
	}
	for _, n := range s.Nodes {
		if len(n.Files)+len(n.Disable) > 0 {
			all = append(all, s.of(n))
		}
	}
	return all
}

// shell is a script for the host and one for each kind of node.
func shell(s Steps) ([]provisioner.File, error) {
	var files []provisioner.File
	for _, p := range s.parts() {
		text, err := render("part.sh", p)
		if err != nil {
			return nil, err
		}
		files = append(files, provisioner.File{Path: p.Part.Name + ".sh", Content: text, Mode: 0o755})
	}
	return files, nil
}

// cloudInit has an instance write the node's script and run it once. What the
// script has to be told is in a file, which is removed: arguments are for all to
// read.
func cloudInit(s Steps) ([]provisioner.File, error) {
	var files []provisioner.File
	for _, n := range s.Nodes {
		script, err := render("part.sh", s.of(n))
		if err != nil {
			return nil, err
		}
		const target, told = "/usr/local/sbin/lxcmatrix-node", "/root/lxcmatrix-node.env"
		head, writes := s.header(), []any{map[string]any{"path": target, "permissions": "0755", "content": script}}
		command := []string{target, "apply"}
		if tell := asked(n.Part); len(tell) > 0 {
			head += "# Before it is used, fill in what is empty in " + told + "; the script says what is.\n"
			var empty strings.Builder
			for _, v := range tell {
				fmt.Fprintf(&empty, "%s=\n", strings.ToUpper(v[0]))
			}
			writes = append(writes, map[string]any{"path": told, "permissions": "0600", "content": empty.String()})
			command = []string{"sh", "-ec", "set -a; . " + told + "; rm " + told + "; exec " + target + " apply"}
		}
		config, err := yaml.Dump(map[string]any{"write_files": writes, "runcmd": []any{command}})
		if err != nil {
			return nil, err
		}
		files = append(files, provisioner.File{Path: s.named(n, "user-data"), Content: "#cloud-config\n" + head + string(config)})
	}
	return files, nil
}

// named is the name of a file that is there for each kind of node.
func (s Steps) named(n Node, file string) string {
	if len(s.Nodes) == 1 {
		return file
	}
	return n.Name + "-" + file
}

// header says what something was written for.
func (s Steps) header() string {
	return fmt.Sprintf("# Written by lxcmatrix export for the cell %s,\n# as it passed: %s.\n", s.Cell, s.Facts)
}

// ansible is a playbook for each part and one that undoes it, with the files
// that they copy.
func ansible(s Steps) ([]provisioner.File, error) {
	var files []provisioner.File
	for _, p := range s.parts() {
		for name, from := range map[string]string{p.Part.Name + ".yml": "part.yml", p.Part.Name + "-undo.yml": "undo.yml"} {
			text, err := render(from, p)
			if err != nil {
				return nil, err
			}
			files = append(files, provisioner.File{Path: name, Content: text})
		}
		for _, f := range p.Part.Files {
			text := f.Content
			for name, holder := range variables() {
				text = strings.ReplaceAll(text, holder, "{{ "+name+" }}")
			}
			if isTemplate(f) && strings.Contains(f.Content, "{{") {
				return nil, &UntranslatableError{"ansible", "the file " + f.Path + ", which is a template of another kind"}
			}
			files = append(files, provisioner.File{Path: source(p.Part, f), Content: text})
		}
	}
	slices.SortFunc(files, func(a, b provisioner.File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// isTemplate says whether a file names something that the node knows.
func isTemplate(f provisioner.File) bool {
	return len(holders(Part{Files: []provisioner.File{f}})) > 0
}

// source is where a part's file lies beside its playbook, where Ansible looks
// for it as relative.
func source(p Part, f provisioner.File) string {
	if isTemplate(f) {
		return path.Join("templates", relative(p, f))
	}
	return path.Join("files", relative(p, f))
}

func relative(p Part, f provisioner.File) string { return p.Name + f.Path }
