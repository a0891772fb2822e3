"""The English words of the micro world: everything that no seed changes."""

PEOPLE = (
    "Mira Dario Lena Tomas Ines Bruno Clara Felix Nora Hugo Alma Oscar Vera Leo Ida Paul "
    "Rosa Emil Tilda Jonas Greta Anton Elsa Marco Zita Simon Flora Viktor Wanda Rolf"
).split()

ADJECTIVE_OPPOSITES = (
    ("hot", "cold"), ("big", "little"), ("fast", "slow"), ("light", "dark"), ("full", "empty"),
    ("old", "young"), ("happy", "sad"), ("high", "low"), ("hard", "soft"), ("wet", "dry"),
    ("open", "closed"), ("rich", "poor"), ("strong", "weak"), ("early", "late"), ("near", "far"),
    ("thick", "thin"), ("loud", "quiet"), ("clean", "dirty"), ("long", "short"), ("wide", "narrow"),
    ("sweet", "bitter"), ("heavy", "weightless"), ("true", "false"), ("deep", "shallow"),
)  # fmt: skip

RHYMES = (
    "moon spoon tune dune lagoon", "stone bone throne cone drone", "light night kite height flight",
    "tree sea bee knee key", "rain train grain lane chain", "day bay clay hay way",
    "king ring spring wing string", "bell shell well spell smell", "boat coat goat note moat",
    "hill mill bill quill drill", "cake lake snake rake flake", "hat cat mat bat rat",
    "bread thread bed shed sled", "rose nose hose prose pose", "gold cold fold mold hold",
    "door floor shore store oar",
)  # fmt: skip
RHYME_GROUPS = tuple(tuple(group.split()) for group in RHYMES)

# Plain nouns: poem topics, words to spell, to reverse, to put in capitals.
NOUNS = (
    "apple river candle garden bridge window ladder pepper basket button carpet castle forest "
    "island jacket kitchen lantern market mirror needle orchard pencil pocket pillow rabbit "
    "saddle silver summer table tower tunnel valley violin wagon winter hammer feather anchor "
    "barrel blanket copper desert engine farmer"
).split()

OBJECTS = "lamp kettle drum map rope bucket clock whistle coin shovel broom flute".split()
PLACES = "mill harbour market bridge tower orchard barn well gate chapel".split()

CATEGORIES = {
    "fruits": "plum pear fig cherry lemon peach melon grape".split(),
    "tools": "hammer saw drill chisel wrench pliers axe rake".split(),
    "clothes": "shirt coat hat scarf glove sock belt boot".split(),
    "instruments": "drum flute violin harp horn piano cello organ".split(),
    "trees": "oak pine birch willow maple cedar elm ash".split(),
    "metals": "iron copper silver gold tin zinc lead nickel".split(),
    "vegetables": "carrot onion leek bean turnip cabbage radish spinach".split(),
    "vehicles": "cart wagon train tram bus truck bicycle sled".split(),
    "gems": "ruby opal pearl jade amber topaz garnet quartz".split(),
    "spices": "pepper cumin clove ginger saffron mint thyme basil".split(),
}
INGREDIENTS = "plum carrot onion lentil barley pumpkin apple bean leek potato turnip cherry".split()
DISHES = "soup pie stew salad bread porridge".split()
SEASONINGS = "salt pepper mint thyme honey butter cream ginger".split()

NUMBER_NAMES = {2: "two", 3: "three", 4: "four", 5: "five"}
THINGS = "pears coins shells nuts cards books beads eggs stamps ropes".split()
