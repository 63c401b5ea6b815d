package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	. "github.com/onsi/gomega"
	"github.com/ulikunitz/xz"
	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// program is how an ELF file for a machine begins.
func program(machine elf.Machine) string {
	head := make([]byte, 64)
	copy(head, elf.ELFMAG)
	head[elf.EI_CLASS], head[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	binary.LittleEndian.PutUint16(head[18:], uint16(machine))
	return string(head)
}

type entry struct {
	header  tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}, content}
}

func link(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}, ""}
}

// rootfs is what nodes can be made of.
func rootfs() []entry {
	return []entry{{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o700}, ""},
		{tar.Header{Typeflag: tar.TypeDir, Name: "./etc/", Mode: 0o755}, ""}, link("./sbin", "usr/sbin"),
		file("./usr/lib/systemd/systemd", program(here().machine)), link("./usr/sbin/init", "../lib/systemd/systemd"),
		link("./etc/os-release", "../usr/lib/os-release"), file("./usr/lib/os-release", "NAME=x\nID=\"el-test\"\nVERSION_ID='1.2'\n")}
}

func tarball(t *testing.T, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// store keeps what is packed as the tarball that it was.
func store(t *testing.T) *Store {
	t.Helper()
	packed(t, `exec /bin/cat > "$target"`)
	base := Base{Remove: []string{"/etc/fstab"}, Links: map[string]string{"/etc/systemd/system/kdump.service": "/dev/null"},
		Files: []provisioner.File{{Path: "/etc/machine-id"}, {Path: "/etc/eth0", Content: "dhcp", Mode: 0o600}}}
	return &Store{CacheDir: t.TempDir(), OSes: []OS{{Name: "el-test/1", Family: Family{Base: base}}}}
}

// unpackedImage is an image's entries by name, the content of files and the target
// of links.
func unpackedImage(t *testing.T, p Prepared) map[string]string {
	t.Helper()
	f, err := os.Open(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	all := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h.Linkname + string(content)
		if label, there := h.PAXRecords["SCHILY.xattr.security.selinux"]; there {
			t.Errorf("%s has the label %s", h.Name, label)
		}
	}
}

func TestTake(t *testing.T) {
	g := NewWithT(t)
	s := store(t)
	labelled := file("./usr/bin/ping", "ping")
	labelled.header.PAXRecords = map[string]string{"SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.security.capability": "cap"}
	entries := append(rootfs(), labelled, file("./etc/fstab", "/dev/sda1 /"), file("./etc/machine-id", "0123"), file("./dev/null", "x"),
		entry{tar.Header{Typeflag: tar.TypeLink, Name: "./usr/bin/ping6", Linkname: "./usr/bin/ping"}, ""})
	content := tarball(t, entries)
	dir := t.TempDir()
	for name, pack := range map[string]func(io.Writer) (io.WriteCloser, error){
		"rootfs.tar": func(w io.Writer) (io.WriteCloser, error) {
			return struct {
				io.Writer
				io.Closer
			}{w, io.NopCloser(nil)}, nil
		},
		"rootfs.tar.gz":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"rootfs.tar.xz":  func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		"rootfs.tar.zst": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	} {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		g.Expect(err).NotTo(HaveOccurred())
		w, err := pack(f)
		g.Expect(err).NotTo(HaveOccurred())
		_, err = w.Write(content)
		g.Expect(errors.Join(err, w.Close(), f.Close())).To(Succeed())

		p, err := s.Take(t.Context(), "el-test/1", path, "")
		g.Expect(err).NotTo(HaveOccurred(), name)
		g.Expect(p).To(And(HaveField("Name", "imported/el-test/1"), HaveField("OS", "el-test/1"), HaveField("Source", SourceImported),
			HaveField("Description", ContainSubstring("imported from "+name))))
		image := unpackedImage(t, p)
		var metadata struct {
			Architecture string
			Properties   map[string]string
		}
		g.Expect(yaml.Load([]byte(image["metadata.yaml"]), &metadata)).To(Succeed())
		g.Expect(metadata.Architecture).To(Equal(here().incus))
		g.Expect(metadata.Properties).To(And(HaveKeyWithValue("os", "el-test/1"), HaveKeyWithValue("source", "imported")))
		delete(image, "metadata.yaml")
		g.Expect(image).To(Equal(map[string]string{"rootfs/etc/": "", "rootfs/sbin": "usr/sbin",
			"rootfs/usr/lib/systemd/systemd": program(here().machine), "rootfs/usr/sbin/init": "../lib/systemd/systemd",
			"rootfs/etc/os-release": "../usr/lib/os-release", "rootfs/usr/lib/os-release": "NAME=x\nID=\"el-test\"\nVERSION_ID='1.2'\n",
			"rootfs/usr/bin/ping": "ping", "rootfs/usr/bin/ping6": "rootfs/usr/bin/ping",
			"rootfs/etc/machine-id": "", "rootfs/etc/eth0": "dhcp", "rootfs/etc/systemd/system/kdump.service": "/dev/null"}))
	}

	// The last is what there is.
	kept, err := Files{Dir: FilesDir(s.CacheDir)}.List()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(kept).To(HaveExactElements(HaveField("Name", "imported/el-test/1")))
}

// TestTakeContainer: with metadata the root filesystem is a container's, and
// stays as it is.
func TestTakeContainer(t *testing.T) {
	g := NewWithT(t)
	s := store(t)
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		g.Expect(os.WriteFile(path, content, 0o600)).To(Succeed())
		return path
	}
	root := write("rootfs.tar", tarball(t, append(rootfs(), file("etc/fstab", "none"))))
	const said = "architecture: amd64\ncreation_date: 7\nproperties: {description: mine, os: other}\ntemplates: {/etc/hostname: {template: hostname.tpl}}\n"
	for _, metadata := range []string{write("metadata.yaml", []byte(said)),
		write("incus.tar", tarball(t, []entry{file("./metadata.yaml", said), file("templates/hostname.tpl", "{{ container.name }}")}))} {
		p, err := s.Take(t.Context(), "el-test/1", root, metadata)
		g.Expect(err).NotTo(HaveOccurred())
		image := unpackedImage(t, p)
		g.Expect(image).To(HaveKeyWithValue("rootfs/etc/fstab", "none"))
		g.Expect(image).NotTo(HaveKey("rootfs/etc/eth0"))
		g.Expect(image["metadata.yaml"]).To(And(ContainSubstring("hostname.tpl"), ContainSubstring("description: mine"), ContainSubstring("os: el-test/1")))
		if filepath.Ext(metadata) == ".tar" {
			g.Expect(image).To(HaveKeyWithValue("templates/hostname.tpl", "{{ container.name }}"))
		}
	}
}

// TestRefused: what no node can be made of is named, and what was imported
// before stays.
func TestRefused(t *testing.T) {
	g := NewWithT(t)
	s := store(t)
	dir := t.TempDir()
	write := func(content []byte) string {
		path := filepath.Join(dir, "file")
		g.Expect(os.WriteFile(path, content, 0o600)).To(Succeed())
		return path
	}
	first, err := s.Take(t.Context(), "el-test/1", write(tarball(t, rootfs())), "")
	g.Expect(err).NotTo(HaveOccurred())
	replaced := func(at int, with ...entry) []byte {
		all := rootfs()
		return tarball(t, append(append(all[:at:at], with...), all[at+1:]...))
	}
	foreign := elf.EM_AARCH64
	if here().machine == foreign {
		foreign = elf.EM_X86_64
	}
	more := func(e ...entry) []byte { return tarball(t, append(rootfs(), e...)) }
	for why, content := range map[string][]byte{
		"there is no /usr/lib/systemd/systemd":               replaced(3),
		"there is no /sbin/init":                             replaced(4),
		"its programs are for " + foreign.String():           replaced(3, file("usr/lib/systemd/systemd", program(foreign))),
		"its /usr/lib/systemd/systemd is no program":         replaced(3, file("usr/lib/systemd/systemd", "#!/bin/sh")),
		`its os-release says that it is "debian" "13"`:       replaced(6, file("usr/lib/os-release", "ID=debian\nVERSION_ID=13\n")),
		`its os-release says that it is "" ""`:               replaced(6),
		`its entry "../etc/passwd" leads out`:                more(file("../etc/passwd", "root")),
		`its entry "usr/../../x" leads out`:                  more(file("usr/../../x", "root")),
		`its entry "/etc/passwd" leads out`:                  more(file("/etc/passwd", "root")),
		`its entry "/etc/shadow" leads out`:                  more(entry{tar.Header{Typeflag: tar.TypeLink, Name: "x", Linkname: "/etc/shadow"}, ""}),
		`its entry "sbin/x" is below the symbolic link sbin`: more(file("sbin/x", "x")),
		"it is empty":               tarball(t, nil),
		"it is too short":           []byte("x"),
		"it is no whole tarball":    tarball(t, rootfs())[:1800],
		"it is neither a tarball":   bytes.Repeat([]byte("hello "), 1000),
		"it cannot be unpacked":     append([]byte{0x1f, 0x8b}, make([]byte, 600)...),
		"it is no whole qcow2 disk": append([]byte("QFI\xfb"), make([]byte, 600)...),
	} {
		t.Run(why, func(t *testing.T) {
			g := NewWithT(t)
			_, err := s.Take(t.Context(), "el-test/1", write(content), "")
			var refused *RefusedError
			g.Expect(errors.As(err, &refused)).To(BeTrue(), "%v", err)
			g.Expect(err).To(MatchError(And(HavePrefix("import "+dir+"/file as el-test/1: refused: "), ContainSubstring(why))))
			g.Expect(Files{Dir: FilesDir(s.CacheDir)}.imported(s.OSes[0])).To(HaveField("Fingerprint", first.Fingerprint))
		})
	}

	_, err = s.Take(t.Context(), "other/1", write(tarball(t, rootfs())), "")
	g.Expect(err).To(MatchError(ContainSubstring("no such node OS is known; known are el-test/1")))
	_, err = s.Take(t.Context(), "el-test/1", filepath.Join(dir, "nothing"), "")
	g.Expect(err).To(MatchError(os.ErrNotExist))
	_, err = s.Take(t.Context(), "el-test/1", write(tarball(t, rootfs())), write([]byte("[]")))
	g.Expect(err).To(MatchError(ContainSubstring("its metadata")))
	t.Run("no qemu-img", func(t *testing.T) {
		g := NewWithT(t)
		t.Setenv("PATH", filepath.SplitList(os.Getenv("PATH"))[0]) // tar2sqfs and nothing else
		_, err := s.Take(t.Context(), "el-test/1", write([]byte("QFI\xfb0000")), "")
		g.Expect(err).To(MatchError(And(ContainSubstring("install qemu-utils"), ContainSubstring("virt-tar-out -a "+dir+"/file / rootfs.tar"))))
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	_, err = s.Take(ctx, "el-test/1", write(tarball(t, rootfs())), "")
	g.Expect(err).To(HaveOccurred())
	left, err := os.ReadDir(FilesDir(s.CacheDir))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(HaveLen(2), "the first image and its description")
}
