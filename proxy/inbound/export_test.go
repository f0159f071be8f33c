package inbound

// ProxyHeader is proxyHeader.
var ProxyHeader = proxyHeader
