//go:build race

package connection

// raceEnabled: the race detector makes pools lose things on purpose.
const raceEnabled = true
