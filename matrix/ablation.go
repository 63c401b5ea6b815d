package matrix

// Goal is what a cell's fixes are left out for.
type Goal string

// The goals.
const (
	// GoalOutcomes: to say of each fix what leaving it out comes to.
	GoalOutcomes Goal = "outcomes"
	// GoalMinimal: to find a set of fixes of which none can be spared.
	GoalMinimal Goal = "minimal"
)

// Ablation is a cell and the trials at it with some of its fixes left out, in
// the order in which they were made. What follows from them is for package
// ablation to say.
type Ablation struct {
	Cell CellID `json:"cell"`
	Goal Goal   `json:"goal"`
	// Fixes are those that are in effect in the cell, by the first trial: what
	// opens the host to the node most comes first. Empty before that trial.
	Fixes []AblatedFix `json:"fixes,omitempty"`
	// Trials that came to a result; one that was interrupted is not among them.
	Trials []Trial `json:"trials,omitempty"`
}

// AblatedFix is a fix of a cell as an ablation takes it.
type AblatedFix struct {
	ID string `json:"id"`
	// Cures lists the signatures of the failures that it claims to prevent.
	Cures []string `json:"cures,omitempty"`
	// Harmful: it is advice that is known to do damage, by the signatures that it
	// Causes if there are any.
	Harmful bool     `json:"harmful,omitempty"`
	Causes  []string `json:"causes,omitempty"`
	// Skip is why leaving it out would prove nothing; empty where it would.
	Skip string `json:"skip,omitempty"`
	// Asked: somebody wants to know about it.
	Asked bool `json:"asked"`
}

// Trial is a run of the cell with some fixes left out.
type Trial struct {
	// Run is the ID of the run, whose folder has everything that was seen. Two that
	// have one run are two attempts of it.
	Run string `json:"run"`
	// Without are the fixes that were left out, in order; none is the cell with all
	// its fixes, the control.
	Without []string `json:"without,omitempty"`
	Judgement
	Diagnoses []Diagnosis `json:"diagnoses,omitempty"`
	// Took is from the first phase to the end; getting images is not in it.
	Took Duration `json:"took"`
}
