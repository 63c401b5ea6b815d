package toml

import "testing"

func TestKeys(t *testing.T) {
	for want, v := range map[string]any{"true": true, `"a\"b"`: `a"b`, "3": 3, "-4": int64(-4), "5": uint64(5), "0.5": 0.5} {
		if got, err := Keys(map[string]any{"k": v}); err != nil || got != "  k = "+want+"\n" {
			t.Errorf("%v is %q, %v; want %s", v, got, err, want)
		}
	}
	if got, err := Keys(map[string]any{"b": 1, "a": true}); err != nil || got != "  a = true\n  b = 1\n" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Keys(map[string]any{"list": []any{1}}); err == nil {
		t.Errorf("a list is %q", got)
	}
}
