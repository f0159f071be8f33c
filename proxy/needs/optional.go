//go:build !required

package needs

const required = false
