// Package contract_test holds k3s and RKE2 to what is known of them without
// their releases: files, units, arguments, environment and their order, as they
// are on a real node. Where the program would be is a stand-in that writes down
// how it was called. Nothing here is a verdict on either distribution.
package contract_test
