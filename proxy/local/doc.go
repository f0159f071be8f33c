// Package local owns the local configuration: a YAML document, in a file or inline, that takes the place of a control
// plane. It says which workloads, services and authorization policies there are; the package fills the store and the
// policy set with them, follows changes of the file, and shows in the config dump what was loaded.
//
// The format is the reference's. Differences, all to the better:
//   - A key that means nothing is an error at every level. The reference ignores it inside a match, a service account, a
//     locality and a CIDR address, so that a typing error made a match that never matches.
//   - Errors name the field and the line.
//   - A workload without the keys trustDomain and serviceAccount is in cluster.local and has the service account default,
//     as over xDS. A key that is there counts as it is, "" included.
//   - The port 0 of an application tunnel means no port, as if the key were missing.
//   - String matches may be written {Exact: x} as well as !Exact x, and port numbers may be quoted.
//   - What a workload is an endpoint of is also known as its services.
//   - The file is read again when it changes. A file with an error changes nothing.
package local
