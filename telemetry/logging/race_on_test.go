//go:build race

package logging

// raceEnabled: the race detector makes pools lose things on purpose.
const raceEnabled = true
