"""The screens that keys 1 to 8 open, by their number."""

WELCOME = 0
SCREENS: dict[int, str] = {
    WELCOME: "magic_tui.screens.welcome:WelcomeScreen",
    1: "magic_tui.screens.runs:RunsScreen",
    2: "magic_tui.screens.live:LiveScreen",
    3: "magic_tui.screens.queries:QueriesScreen",
    4: "magic_tui.screens.influences:InfluencesScreen",
    5: "magic_tui.screens.document:DocumentScreen",
    6: "magic_tui.screens.why:WhyScreen",
    7: "magic_tui.screens.over_training:OverTrainingScreen",
    8: "magic_tui.screens.trust:TrustScreen",
}
NAMES = (
    *("Welcome", "Runs", "Live", "Queries", "Influences", "Document"),
    *("Why", "Over training", "Trust"),
)
