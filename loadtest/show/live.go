package show

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/console"
	"ztunnel/loadtest/mesh"
)

// addPod adds a pod of the stock to the shop's node while everything runs, and
// measures when others can talk to it, and it to others. What it takes for
// that, an identity above all, the policies require.
func (w *world) addPod(ctx context.Context) (string, error) {
	start := time.Now()
	pod, err := w.nodes[0].AddPod(ctx, cluster.Spec{Name: "keeper-1", ID: w.keeper.ID})
	if err != nil {
		return "", err
	}
	w.added = pod
	captured := time.Since(start)
	if err := w.cluster.Apps.Echo(ctx, pod.Namespace, echoTarget); err != nil {
		return "", err
	}
	limited, cancel := context.WithTimeout(ctx, cutLimit)
	defer cancel()
	to, tries := netip.AddrPortFrom(pod.Addr, echoTarget), 0
	if err := app.Retry(limited, pollEvery, func() error {
		tries++
		_, err := app.Say(limited, w.packer.Namespace, to, []byte("hello"))
		return err
	}); err != nil {
		return "", fmt.Errorf("another node's pod talks to it: %w", err)
	}
	served := time.Since(start)
	if err := app.Retry(limited, pollEvery, func() error {
		_, err := app.Say(limited, pod.Namespace, w.services()[0], []byte("hello"))
		return err
	}); err != nil {
		return "", fmt.Errorf("it talks to a service: %w", err)
	}
	return fmt.Sprintf("%s until its network was made and ztunnel had it, %s until another node's pod talked to it (%d tries), %s until it had used a service",
		console.Took(captured), console.Took(served), tries, console.Took(time.Since(start))), nil
}

// goneLimit is how long an answer is waited for that should not come.
const goneLimit = 500 * time.Millisecond

// removePod removes the pod again, while a connection to it is open.
func (w *world) removePod(ctx context.Context) (string, error) {
	if w.added == nil {
		return "", errors.New("there is no pod to remove")
	}
	to := netip.AddrPortFrom(w.added.Addr, echoTarget)
	user, err := app.Open(ctx, w.packer.Namespace, to)
	if err != nil {
		return "", err
	}
	defer user.Close()
	start := time.Now()
	if err := w.added.Release(ctx); err != nil {
		return "", err
	}
	told := time.Since(start)
	cut, err := app.UntilCut(user, start, cutLimit)
	if err != nil {
		return "", err
	}
	if err := w.added.Remove(ctx); err != nil {
		return "", err
	}
	_, dump, err := w.ztunnels[0].Get(ctx, mesh.AdminPort, "/config_dump")
	if err != nil {
		return "", err
	}
	if !strings.Contains(dump, w.shopper.Name) {
		return "", errors.New("the config dump does not know the other pods of the node")
	}
	limited, cancel := context.WithTimeout(ctx, goneLimit)
	defer cancel()
	// From the other node: a ztunnel may go on trying to connect for a while, and
	// the next step is about one that ends.
	if _, err := app.Say(limited, w.shopper.Namespace, to, []byte("hello")); err == nil {
		return "", errors.New("it still answers")
	}
	if err := w.untilForgotten(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("ztunnel said so after %s, its open connection ended after %s; others of the node were not touched", console.Took(told), console.Took(cut)), nil
}

// untilForgotten waits until the pod is not in the node's config dump any more.
func (w *world) untilForgotten(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	return app.Retry(ctx, pollEvery, func() error {
		_, dump, err := w.ztunnels[0].Get(ctx, mesh.AdminPort, "/config_dump")
		if err == nil && strings.Contains(dump, w.added.UID) {
			err = errors.New("ztunnel still knows the pod's workload")
		}
		return err
	})
}
