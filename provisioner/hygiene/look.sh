# Prints what a host has, a section each, and changes nothing. The arguments
# are for find: which sysctls to pass over. ROOT is empty but in tests.
PATH=$PATH:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
# What a section cannot show is said in its place.
unseen() { printf '== unseen %s: %s\n' "$1" "$2"; }

echo '== boot'
cat "$ROOT/proc/sys/kernel/random/boot_id"

echo '== sysctl'
(cd "$ROOT/proc/sys" && find . \( "$@" \) -prune -o -type f -print0 | xargs -0 grep -Hs '')

echo '== module'
# A kernel that cannot load any has no such file.
cat "$ROOT/proc/modules" 2>/dev/null | cut -d ' ' -f 1

echo '== interface'
sed -n 's/^ *\([^ :][^:]*\):.*/\1/p' "$ROOT/proc/self/net/dev"

profiles=$ROOT/sys/kernel/security/apparmor/profiles
if [ -e "$profiles" ]; then
	echo '== apparmor'
	cat "$profiles" 2>/dev/null || unseen apparmor 'its profiles cannot be read'
elif [ "$(cat "$ROOT/sys/module/apparmor/parameters/enabled" 2>/dev/null)" = Y ]; then
	unseen apparmor 'it is on, and securityfs is not mounted'
fi

# nft shows the rules of iptables-nft too.
if command -v nft >/dev/null; then
	# Without counters, and without the elements of sets: those of the host's
	# own firewall come and go by themselves.
	if rules=$(nft --stateless --terse --numeric list ruleset 2>&1); then
		printf '== nftables\n%s\n' "$rules"
	else
		unseen nftables "nft: $(printf '%s' "$rules" | tr '\n' ' ')"
	fi
else
	unseen nftables 'nft is not installed'
fi

# The older iptables keeps its rules where nft does not look. Its command is
# asked only where a table is in use: it would bring one into use.
for ip in ip ip6; do
	[ -n "$(cat "$ROOT/proc/self/net/${ip}_tables_names" 2>/dev/null)" ] || continue
	save=
	for name in "${ip}tables-legacy-save" "${ip}tables-save"; do
		case $("$name" --version 2>/dev/null) in
		*legacy*) save=$name && break ;;
		esac
	done
	if [ -z "$save" ]; then
		unseen iptables "$ip tables are in use and ${ip}tables-legacy-save is not installed"
	elif rules=$("$save" 2>&1); then
		printf '== iptables %s\n%s\n' "$ip" "$rules"
	else
		unseen iptables "$save: $(printf '%s' "$rules" | tr '\n' ' ')"
	fi
done
echo '== end'
