// Package config turns the environment, the mesh configuration file and the
// command line into one immutable [Config]. It is the only package that knows
// the names of environment variables; cmd/ztunnel calls [Load] once at start
// and hands the values on. Nothing here is read a second time: files that may
// change (tokens, certificates, local configuration) are passed on as paths.
//
// All variables stand in one table (see [Variables]) that drives the parsing:
// a row has the name, the type, the default as it would be written in the
// environment, the meaning and the parser. The table in README.md is generated
// from it. A library that maps struct tags to variables was considered
// (caarlos0/env) and is not used: the exact error messages, prefix variables
// (XDS_HEADER_*), secrets that must not show in errors, and empty values that
// are not the same as unset ones would all have gone past it.
//
// Errors name the variable and what is allowed:
//
//	invalid env var NAME=VALUE (REASON)
package config
