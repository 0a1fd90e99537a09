package kwik

// mayNamePort reports whether a primary at one port may send its clients to another. Ports below
// 1,024 belong to services of other protocols, except HTTP/3's.
func mayNamePort(primary, named uint16) bool {
	switch named {
	case 0:
		return false
	case 443, primary:
		return true
	case 1900, 3702, 5353, 5355, 11211: // answer strangers: SSDP, WS-Discovery, mDNS, LLMNR, memcached
		return false
	}
	return named >= 1024
}
