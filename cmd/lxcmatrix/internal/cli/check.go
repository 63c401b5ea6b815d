package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/health"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// checkStability is how long check watches the system's pods, as a run does
// unless its matrix says otherwise.
const checkStability = 30 * time.Second

func (p *program) check() *cobra.Command {
	var kubeconfig, contextName, remote, project, output string
	var nodes []string
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "check", Short: "Check a cluster that is there already, and change nothing", Args: args(noArgs),
		Long: `Check looks at any cluster as a run does before its first restart, and prints what
it saw. It creates nothing in the cluster and writes nothing on its nodes, so what
needs the probe workload is not looked at. Nodes that are Incus instances are
looked into as well where --node names them; the others' kernel, OS and kube-proxy
are not looked at. What was not looked at is listed with its reason: it is not
known to be healthy.

Exit codes: 0 all that was looked at is healthy, 1 something is not, 2 usage or
configuration, 3 it could not be told, 130 and 143 interrupted.`,
		Example: `  lxcmatrix check --kubeconfig admin.conf
  lxcmatrix check --context prod --wait 5m -o json
  lxcmatrix check --node cp1=k8s-cp1 --node worker1=k8s-worker1
  lxcmatrix check --node cp1=k8s-cp1 --remote lab --project k8s`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usage("-o %q: want table or json", output)
			}
			if wait <= 0 {
				return usage("--wait %s: want a duration above 0, as 30s", wait)
			}
			named, err := namedNodes(nodes)
			if err != nil {
				return err
			}
			if len(named) == 0 && (remote != "" || cmd.Flags().Changed("project")) {
				return usage("--remote and --project say where the instances of --node are; name one with --node NODE=INSTANCE")
			}
			config, err := health.LoadKubeconfig(kubeconfig, contextName)
			if err != nil {
				return usage("%w", err)
			}
			instances, leave, err := instancesOf(cmd.Context(), named, remote, project)
			if err != nil {
				return err
			}
			defer leave()
			survey, err := health.Look(cmd.Context(), health.SurveyOptions{Config: config, Instances: instances, Wait: wait, Stability: checkStability})
			var refused *health.RefusedError
			var unknown *health.UnknownNodeError
			switch {
			case errors.As(err, &refused), errors.As(err, &unknown):
				return usage("%w", err)
			case err != nil:
				return err
			}
			if output == "json" {
				err = writeJSON(p.Out, checked{Verdict: survey.Judge().Verdict, Survey: survey})
			} else {
				err = p.printSurvey(survey)
			}
			if err != nil {
				return err
			}
			switch survey.Judge().Verdict {
			case matrix.Pass:
				return nil
			case matrix.Fail:
				return exitError(matrix.ExitDeviation)
			}
			return exitError(matrix.ExitHarness)
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig `file`; default: those that kubectl reads")
	f.StringVar(&contextName, "context", "", "`context` of the kubeconfig; default: its current one")
	f.StringArrayVar(&nodes, "node", nil, "a node and the Incus instance that it is, as `NODE=INSTANCE`; may be repeated")
	f.StringVar(&remote, "remote", "", "`remote` of the Incus client that has the instances; default: this machine's Incus")
	f.StringVar(&project, "project", "default", "Incus `project` that the instances are in")
	f.DurationVar(&wait, "wait", 30*time.Second, "how long the cluster may take to become healthy; "+checkStability.String()+" in which nothing restarts come on top")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	complete(cmd, "output", words("table", "json"))
	return cmd
}

// checked is a survey with its verdict; its JSON is for scripts.
type checked struct {
	Verdict matrix.Verdict `json:"verdict"`
	health.Survey
}

// namedNodes reads NODE=INSTANCE.
func namedNodes(all []string) (map[string]string, error) {
	named := map[string]string{}
	for _, one := range all {
		node, instance, ok := strings.Cut(one, "=")
		if !ok || node == "" || instance == "" {
			return nil, usage("--node %q: want NODE=INSTANCE, the node's name in the cluster and the Incus instance that it is", one)
		}
		if _, twice := named[node]; twice {
			return nil, usage("--node %q: node %s is named twice", one, node)
		}
		named[node] = instance
	}
	return named, nil
}

// instancesOf are the instances of the nodes that were named, on the Incus
// server that has them; none is asked where no node was named.
func instancesOf(ctx context.Context, named map[string]string, remote, project string) (_ map[string]provisioner.Node, leave func(), err error) {
	if len(named) == 0 {
		return nil, func() {}, nil
	}
	server, err := connectIncus(ctx, remote)
	if err != nil {
		return nil, nil, err
	}
	if err := server.LookInto(ctx, project); err != nil {
		server.Disconnect()
		return nil, nil, err
	}
	instances := map[string]provisioner.Node{}
	for node, instance := range named {
		instances[node] = server.Instance(instance, "")
	}
	return instances, server.Disconnect, nil
}

// connectIncus connects to a remote of the user's Incus client, or to this
// machine's own server.
func connectIncus(ctx context.Context, remote string) (*incus.Server, error) {
	if remote == "" {
		return incus.Connect(ctx, "")
	}
	url, known, err := incus.Remote(remote)
	var unknown *incus.UnknownRemoteError
	switch {
	case errors.As(err, &unknown):
		return nil, usage("%w", err)
	case err != nil:
		return nil, err
	}
	return incus.ConnectHTTPS(ctx, url, known)
}

// printSurvey prints what was seen, and then what was not looked at.
func (p *program) printSurvey(s health.Survey) error {
	distro := s.Distro
	if distro == "" {
		distro = "an unknown distribution"
	}
	fmt.Fprintf(p.Out, "%s: %s\n\n", s.Server, distro)
	var rows [][]string
	for _, n := range s.Nodes {
		rows = append(rows, []string{n.Name, string(n.Role), n.Kubelet, n.Instance})
	}
	if err := columns(p.Out, []string{"NODE", "ROLE", "KUBELET", "INSTANCE"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(p.Out)
	rows = nil
	healthy := 0
	for _, e := range s.Checks {
		saw := e.Saw
		if e.Want != "" {
			saw += ", want " + e.Want
		}
		if e.Outcome == matrix.Healthy {
			healthy++
		}
		rows = append(rows, []string{e.Check, e.Node, e.Outcome.String(), saw})
	}
	for _, skipped := range s.Skipped {
		rows = append(rows, []string{skipped.Check, skipped.Node, "not looked at", skipped.Why})
	}
	if err := columns(p.Out, []string{"CHECK", "NODE", "OUTCOME", "SAW"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.Out, "\n%d of %d looks healthy; not looked at: %d\n", healthy, len(s.Checks), len(s.Skipped))
	return err
}
