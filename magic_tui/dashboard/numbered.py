"""The screens that keys 1 to 8 open, by their number."""

WELCOME = 0
SCREENS: dict[int, str] = {
    WELCOME: "magic_tui.runs.welcome_screen:WelcomeScreen",
    1: "magic_tui.runs.runs_screen:RunsScreen",
    2: "magic_tui.live.live_screen:LiveScreen",
    3: "magic_tui.queries.queries_screen:QueriesScreen",
    4: "magic_tui.explore.influences_screen:InfluencesScreen",
    5: "magic_tui.explore.document_screen:DocumentScreen",
    6: "magic_tui.explore.why_screen:WhyScreen",
    7: "magic_tui.explore.over_training_screen:OverTrainingScreen",
    8: "magic_tui.trust.trust_screen:TrustScreen",
}
NAMES = (
    *("Welcome", "Runs", "Live", "Queries", "Influences", "Document"),
    *("Why", "Over training", "Trust"),
)
