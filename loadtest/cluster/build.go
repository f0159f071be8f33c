package cluster

import (
	"context"
	"fmt"
	"os/exec"
)

// Build compiles the ztunnel of this repository, as it is delivered: static. It
// needs Go, and a working directory within the repository.
func Build(ctx context.Context, path string) error {
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "ztunnel/cmd/ztunnel")
	command.Env = append(command.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build ztunnel: %w\n%s", err, output)
	}
	return nil
}
