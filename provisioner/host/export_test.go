package host

// BridgeName is the name of a state folder's bridge.
func BridgeName(stateDir string) string { return bridgeName(stateDir) }
