package view

import (
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
)

// Diff is a difference with all text made safe to print.
func Diff(d history.Diff) history.Diff {
	plain := history.Diff{From: Plain(d.From), To: Plain(d.To), Inputs: plainInputs(d.Inputs)}
	for _, c := range d.Cells {
		c.Cell, c.From, c.To, c.Inputs = matrix.CellID(Plain(string(c.Cell))), plainJudgement(c.From), plainJudgement(c.To), plainInputs(c.Inputs)
		plain.Cells = append(plain.Cells, c)
	}
	return plain
}

func plainJudgement(j *matrix.Judgement) *matrix.Judgement {
	if j == nil {
		return nil
	}
	return &matrix.Judgement{Verdict: j.Verdict, Phase: matrix.Phase(Plain(string(j.Phase))), Reason: Plain(j.Reason)}
}

func plainInputs(in []history.InputChange) (plain []history.InputChange) {
	for _, c := range in {
		c.Name, c.From, c.To = Plain(c.Name), Plain(c.From), Plain(c.To)
		plain = append(plain, c)
	}
	return plain
}
