package identity

// CachedClientConfigs is the number of client configurations that c holds.
func CachedClientConfigs(c *Certificate) int {
	c.clients.mu.Lock()
	defer c.clients.mu.Unlock()
	return len(c.clients.m)
}
