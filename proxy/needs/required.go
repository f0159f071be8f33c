//go:build required

package needs

const required = true
