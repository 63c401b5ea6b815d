// Command standin stands where k3s or rke2 would be in a contract test. It is no
// Kubernetes: it writes down how it was called and what configuration it found,
// leaves the two files that a server leaves for its administrator and for other
// nodes, says READY to systemd, and waits to be ended.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// record is one start, a line in the file of records.
type record struct {
	Args   []string          `json:"args"`
	Env    map[string]string `json:"env"`
	Files  map[string]string `json:"files"`
	Modes  map[string]string `json:"modes"`
	BootID string            `json:"bootID"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run() error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	name := filepath.Base(os.Args[0])
	r := record{Args: os.Args, Env: map[string]string{}, Files: map[string]string{}, Modes: map[string]string{}}
	for _, key := range []string{"HOME", "NOTIFY_SOCKET", "INVOCATION_ID"} {
		r.Env[key] = os.Getenv(key)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	r.BootID = strings.TrimSpace(string(boot))
	state := filepath.Join("/var/lib/rancher", name)
	for _, pattern := range []string{
		filepath.Join("/etc/rancher", name, "config.yaml"), filepath.Join("/etc/rancher", name, "config.yaml.d/*"),
		filepath.Join(state, "agent/etc/*/*"), filepath.Join(state, "agent/etc/*/*/*"), filepath.Join(state, "agent/images/*"),
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, p := range paths {
			info, err := os.Stat(p)
			if err != nil {
				return err
			}
			if info.IsDir() {
				continue
			}
			r.Modes[p] = fmt.Sprintf("%04o", info.Mode().Perm())
			if strings.Contains(p, "/images/") {
				r.Files[p] = fmt.Sprint(info.Size())
				continue
			}
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			r.Files[p] = string(content)
		}
	}
	config := r.Files[filepath.Join("/etc/rancher", name, "config.yaml")]
	if strings.Contains(config, "refuse-to-start") {
		return fmt.Errorf("told to refuse by its configuration")
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	out, err := os.OpenFile("/var/lib/standin.jsonl", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%s\n", line); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	if len(os.Args) > 1 && os.Args[1] == "server" {
		if err := leave(name, state, config); err != nil {
			return err
		}
	}
	if err := ready(); err != nil {
		return err
	}
	<-ended
	return nil
}

// leave writes what a server of its name leaves.
func leave(name, state, config string) error {
	token := ""
	for _, l := range strings.Split(config, "\n") {
		if value, ok := strings.CutPrefix(l, "token: "); ok {
			token = value
		}
	}
	if !strings.HasPrefix(token, "K10") {
		token = "K10" + strings.Repeat("0", 64) + "::server:" + token
	}
	file, link := filepath.Join(state, "server/token"), filepath.Join(state, "server/node-token")
	for path, content := range map[string]string{
		file: token + "\n",
		filepath.Join("/etc/rancher", name, name+".yaml"): "clusters: [{name: default, cluster: {server: 'https://127.0.0.1:6443'}}]\n",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	// The token's other name is a link: printTokens of k3s' pkg/server.
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(file, link)
}

// ready is sd_notify(3).
func ready() error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("READY=1"))
	return err
}
