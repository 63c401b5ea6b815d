// Package reports holds one small package for each format in which a run is
// shown, and view, what they all show. Renderers are pure: they take a run and
// write it, and decide nothing about it.
package reports
