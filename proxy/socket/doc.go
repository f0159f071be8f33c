// Package socket knows the facts of Linux TCP sockets that the proxy relies on: which options listening, accepted and
// dialled sockets carry, sockets created inside a pod's network namespace, the original destination of redirected
// connections, and the words of the reference for operating system errors.
//
// It opens sockets and hands them out as types of package net; it never reads or writes payload, resolves no names and
// decides nothing about routing. The listeners (inbound, outbound, socks, dns, admin) and the tunnel pool's dial
// function call it. Every address it returns is canonical: an IPv4 address is never given in its IPv6-mapped form.
//
// System calls are kept few. An accepted socket costs accept4, getsockname, epoll_ctl and one setsockopt for
// TCP_NODELAY, all of package net: mark, keepalive and user timeout are inherited from the listening socket. A dialled
// socket costs socket, connect, epoll_ctl, getsockopt(SO_ERROR), getpeername, getsockname and the options of the
// configuration.
package socket
