#!/bin/sh
{{- $part := .Part}}
# Written by lxcmatrix export for the cell {{.Cell}},
# as it passed: {{.Facts}}.
#
# Run it as root {{$part.Where}}:
#   sh {{$part.Name}}.sh        apply it; a second time changes nothing
#   sh {{$part.Name}}.sh undo   bring back the files, sysctls and units of before
# What is replaced is kept in /var/lib/lxcmatrix-export/{{$part.Name}} until then. What a unit
# mounted stays until the next start.
{{- with asked $part}}
# It asks the environment for what a node joins with:
{{- range .}}
#   {{upper (index . 0)}}  {{index . 1}}
{{- end}}
{{- end}}
{{- range .Notes}}
# {{.}}
{{- end}}
{{- with .Start}}
# Then start it:
#   {{join . " "}}
{{- end}}
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
kept=/var/lib/lxcmatrix-export/{{$part.Name}}
changes=0
{{- if or $part.Units $part.Restart}}
files_changed=no
{{- end}}

changed() {
	changes=$((changes + 1))
	echo "changed: $*"
}

fail() {
	echo "$0: $*" >&2
	exit 1
}

# keep FILE remembers what was there before the first change.
keep() {
	if [ -e "$kept/files$1" ] || [ -L "$kept/files$1" ] || [ -e "$kept/files$1.absent" ]; then
		return
	fi
	mkdir -p "$(dirname "$kept/files$1")"
	if [ -e "$1" ] || [ -L "$1" ]; then
		cp -a "$1" "$kept/files$1"
	else
		: >"$kept/files$1.absent"
	fi
}

# put FILE MODE makes standard input the file, unless it is that already.
put() {
	new=$(mktemp)
	sed{{range holders $part}} -e "s|{{index . 1}}|${{index . 0}}|g"{{else}} -n p{{end}} >"$new"
	if [ -f "$1" ] && [ ! -L "$1" ] && cmp -s "$new" "$1" && [ "$(stat -c %a "$1")" = "$2" ]; then
		rm "$new"
		return
	fi
	keep "$1"
	mkdir -p "$(dirname "$1")"
	chmod "$2" "$new"
	mv -f "$new" "$1"
{{- if or $part.Units $part.Restart}}
	files_changed=yes
{{- end}}
	changed "file $1"
}

# restore FILE brings back what keep remembered.
restore() {
	if [ -e "$kept/files$1" ] || [ -L "$kept/files$1" ]; then
		mv -f "$kept/files$1" "$1"
	elif [ -e "$kept/files$1.absent" ]; then
		rm -f "$1" "$kept/files$1.absent"
	else
		return 0
	fi
	changed "file $1"
}

{{if $part.Sysctls}}# set_sysctl KEY FILE VALUE
set_sysctl() {
	[ -e "$2" ] || fail "there is no sysctl $1 here: a module of the kernel may have to be loaded on the host first"
	before=$(tr -s '[:space:]' ' ' <"$2" | sed 's/ $//')
	[ "$before" != "$3" ] || return 0
	mkdir -p "$kept/sysctls"
	[ -e "$kept/sysctls/$1" ] || echo "$before" >"$kept/sysctls/$1"
	echo "$3" >"$2"
	changed "sysctl $1 = $3"
}

# restore_sysctl KEY FILE
restore_sysctl() {
	[ -e "$kept/sysctls/$1" ] || return 0
	cat "$kept/sysctls/$1" >"$2"
	rm "$kept/sysctls/$1"
	changed "sysctl $1"
}

{{end}}{{if $part.Enable}}# enable_unit UNIT starts it now and at every boot.
enable_unit() {
	if systemctl is-enabled --quiet "$1" && systemctl is-active --quiet "$1"; then
		return
	fi
	systemctl enable --now --quiet "$1"
	changed "unit $1 is enabled"
}

{{end}}{{if $part.Disable}}# disable_unit UNIT stops it now and for every boot.
disable_unit() {
	if ! systemctl is-enabled --quiet "$1" && ! systemctl is-active --quiet "$1"; then
		return
	fi
	mkdir -p "$kept/disabled"
	: >"$kept/disabled/$1"
	systemctl disable --now --quiet "$1"
	changed "unit $1 is disabled"
}

{{end}}{{/* What is there to do. */ -}}
apply() {
{{- range holders $part}}
{{- if eq (index . 0) "node_name"}}
	node_name=${NODE_NAME:-$(hostname)}
{{- else if eq (index . 0) "node_address"}}
	node_address=${NODE_ADDRESS:-$(ip -4 route get 192.0.2.1 | sed -n 's/.* src \([0-9.]*\).*/\1/p')}
	[ -n "$node_address" ] || fail "the node's IPv4 address is not known: set NODE_ADDRESS"
{{- else if eq (index . 0) "gateway"}}
	gateway=${GATEWAY:-$(ip -4 route show default | sed -n '1s/^default via \([0-9.]*\).*/\1/p')}
	[ -n "$gateway" ] || fail "the address of the bridge, whose DNS answers, is not known: set GATEWAY"
{{- end}}
{{- end}}
{{- range asked $part}}
	{{index . 0}}=${ {{- upper (index . 0)}}:-}
	[ -n "${{index . 0}}" ] || fail "set {{upper (index . 0)}}: {{index . 1}}"
{{- end}}
{{- range $part.Files}}{{$end := terminator .Content}}
	put {{quote .Path}} {{printf "%o" .Mode}} <<'{{$end}}'
{{.Content}}{{$end}}
{{- end}}
{{- if $part.Units}}
	if [ "$files_changed" = yes ]; then
		systemctl daemon-reload
	fi
{{- end}}
{{- range $part.Enable}}
	enable_unit {{quote .}}
{{- end}}
{{- range $part.Disable}}
	disable_unit {{quote .}}
{{- end}}
{{- range $part.Sysctls}}
	set_sysctl {{quote .Key .File .Value}}
{{- end}}
{{- with $part.Restart}}
	if [ "$files_changed" = yes ]; then
		systemctl try-restart{{range .}} {{quote .}}{{end}}
	fi
{{- end}}
}

undo() {
{{- range $part.Enable}}
	if [ -e {{quote (print "/var/lib/lxcmatrix-export/" $part.Name "/files/etc/systemd/system/" . ".absent")}} ]; then
		systemctl disable --now --quiet {{quote .}}
	fi
{{- end}}
{{- range $part.Files}}
	restore {{quote .Path}}
{{- end}}
{{- if $part.Units}}
	if [ "$changes" != 0 ]; then
		systemctl daemon-reload
	fi
{{- end}}
{{- range $part.Sysctls}}
	restore_sysctl {{quote .Key .File}}
{{- end}}
{{- range $part.Disable}}
	if [ -e "$kept/disabled/"{{quote .}} ]; then
		systemctl enable --now --quiet {{quote .}}
		rm "$kept/disabled/"{{quote .}}
		changed {{quote (print "unit " .)}}
	fi
{{- end}}
{{- with $part.Restart}}
	if [ "$changes" != 0 ]; then
		systemctl try-restart{{range .}} {{quote .}}{{end}}
	fi
{{- end}}
}

case ${1:-apply} in
apply) apply ;;
undo) undo ;;
*) fail "want apply or undo, not $1" ;;
esac
if [ "$changes" = 0 ]; then
	echo "no change"
fi
