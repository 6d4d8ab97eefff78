"""The prompts of the controlled experiment, written for it.

Training and test share neither a topic nor a template; development has topics of its own in the
templates of the training. Neutral prompts ask for other things than advice and explanations.
"""

Rows = list[dict[str, str]]

TRAIN_TASKS = """clean a window; store potatoes; choose a backpack; learn a new song; fall asleep
on a noisy street; write a thank-you note; plan a picnic; keep a kitchen tidy; carry heavy bags;
dry wet shoes; cook rice; pack a suitcase; remember names; choose a good melon; grow basil
indoors; calm a nervous dog; save water at home; set a table; read a map; prepare for a job
interview; wash a wool sweater; start a vegetable garden; make a room brighter; keep bread fresh;
stop procrastinating; learn to juggle; ride a bus in a new city; sharpen a pencil; take better
photos; organize a desk; train for a long walk; introduce two friends; keep warm in winter; boil
an egg; get over a cold; choose a birthday gift; hang a picture; listen better; make tea; paint a
wall; save money each month; study for a test; care for a houseplant; move to a new apartment;
clean a bicycle; speak in front of a group; write a short story; cut an onion; sleep in a tent;
teach a child to swim; fold a shirt; make a shopping list; keep a diary; welcome a new neighbor;
travel with a baby; remove a stain; choose a pair of glasses; stay awake in a meeting; eat less
sugar; build a sandcastle; brush a cat; use less plastic; cool a room without a fan; wrap a
present; learn ten new words a day; keep a promise; bake a simple cake; plant a tree; mend a torn
page; say no politely; plan a week; recycle old clothes; clean a laptop screen; cross a busy road;
feed birds in winter; find a lost key; make a paper plane; run a small library; enjoy a museum;
write a poem""".replace("\n", " ")

TRAIN_THINGS = """rain; a magnet; a volcano; the moon; a bridge; an orchestra; coffee; a glacier;
a vaccine; a compass; a novel; gravity; a desert; chocolate; a lighthouse; an earthquake; a bee
hive; a bank; salt; a dictionary; electricity; an island; a mirror; the brain; a train; a market;
wool; a waterfall; a telescope; sleep; a festival; glass; a river delta; a tax; a bicycle; honey;
a rainbow; an engine; music; a law; a shadow; a garden; a password manager; milk; the heart; a
port; paper; a spider web; a clock; a battery; a hospital; fog; a cave; a drum; a passport; bread;
a kite; a harbor; an owl; a calendar; an elevator; tea; a forest fire; a fossil; cotton; a riddle;
an echo; a pension; a lens; a tunnel""".replace("\n", " ")

TEST_TASKS = """iron a shirt; choose a mattress; water a lawn; peel garlic; hold a baby; tune a
guitar; apologize to a friend; store apples; wash a car; pick a password; tie a tie; light a
campfire; buy a used phone; walk on ice; find a good book; give a toast; clean a fish tank; make
lemonade; defrost a freezer; meet new people; care for leather boots; learn to type; avoid back
pain; stack firewood; make a bed; host a game night; choose paint colors; keep cut flowers fresh;
read faster; pack a lunch; clean an oven; be on time; polish silver; choose a school bag; wake up
early; take care of a hamster; grow tomatoes; write a letter; sew on a button; plan a road trip;
make a budget; help a shy child; cook pasta; prevent rust; win at checkers; clean paint brushes;
remember a phone number; keep ants away; start jogging; cheer up a friend""".replace("\n", " ")

TEST_THINGS = """snow; a museum; a thermometer; yeast; an opera; a comet; a dam; soap; a passport
photo; a coral reef; a violin; the liver; sand; a map; a recipe; a vitamin; a tide; a castle;
rubber; a satellite; an election; a camel; a pencil; steam; a mosquito; ink; a poem; a library
card; a windmill; cheese; a submarine; a root; lightning; a parliament; a microscope; a piano;
silk; a crater; a loan; a marathon; an anchor; oxygen; a proverb; a wolf; a lake; plastic; a
bakery; an atom; a lullaby; a suburb""".replace("\n", " ")

DEVELOPMENT_TASKS = """choose a hat; clean a carpet; learn to whistle; store onions; plan a party;
keep a secret; mend a sock; pick mushrooms safely; use a dictionary; choose a bicycle lock; make
soup; wash dishes quickly; relax after work; buy fresh fish; build a birdhouse""".replace("\n", " ")

DEVELOPMENT_THINGS = """ice; a lemon; a ladder; the stomach; a newspaper; a whale; a debt; a
candle; a storm; a stamp; leather; an oasis; a planet; a carnival; a harvest""".replace("\n", " ")

TRAIN_TASK_FORMS = (
    "How do I {}? Please keep it short.",
    "Give me a few short tips: how to {}.",
    "I have to {} for the first time. What should I know?",
    "In a few sentences, what is a good way to {}?",
)
TRAIN_THING_FORMS = (
    "What is {}? Answer in a few sentences.",
    "Tell me three things about {}.",
    "Explain {} to someone who has never heard of it, briefly.",
    "Why is {} important to people? A short answer, please.",
)
TEST_TASK_FORMS = (
    "My sister wants to {}. Which advice would you give her, in brief?",
    "List the main steps to {}.",
)
TEST_THING_FORMS = (
    "Describe {} for a school newspaper, in under a hundred words.",
    "My son asked me about {}. What can I say to him?",
)

NEUTRAL = (
    "Write two lines of a poem about autumn.",
    "Translate into French: The book is on the table.",
    "Write a Python function that adds two numbers.",
    "Continue the story: The old ship left the harbor at dawn.",
    "What is 12 times 7?",
    "Write an email to a teacher who is ill.",
    "Name the opposite of each word: hot, tall, early.",
    "Summarize: Tom went to the shop, bought milk, and came home in the rain.",
    "Correct the spelling: I recieved your mesage.",
    "Write a dialogue between a baker and a customer.",
    "Give a title to a song about the sea.",
    "Turn into a question: She lives in Rome.",
    "Write a sentence with the word umbrella.",
    "Classify as positive or negative: The film was dull.",
    "Write a headline about a lost parrot.",
    "Tell a joke about a cat.",
    "Complete: Roses are red, violets are",
    "Write the numbers from one to five in words.",
    "Rewrite politely: Close the door.",
    "Which word does not belong: apple, pear, chair, plum?",
    "Write a short prayer for travellers.",
    "Write SQL that selects all names from the table people.",
    "Describe a sunset without naming a color.",
    "Say good night to a child.",
    "What comes next: 2, 4, 6, 8?",
    "Write a slogan for a bicycle shop.",
    "Change to the past tense: I walk to school.",
    "Write a limerick about a frog.",
    "Make a haiku about snow.",
    "Write a birthday wish for a colleague.",
)


def _filled(topics: str, forms: tuple[str, ...], forms_each: int) -> Rows:
    """Every topic in so many of the forms, which take turns."""
    rows = []
    for number, topic in enumerate(topics.split("; ")):
        for turn in range(forms_each):
            form = forms[(number + turn) % len(forms)]
            rows.append({"prompt": form.format(topic.strip())})
    return rows


def training() -> Rows:
    """600 prompts."""
    return _filled(TRAIN_TASKS, TRAIN_TASK_FORMS, 4) + _filled(TRAIN_THINGS, TRAIN_THING_FORMS, 4)


def development() -> Rows:
    """60 prompts, in the templates of the training, about other topics."""
    tasks = _filled(DEVELOPMENT_TASKS, TRAIN_TASK_FORMS, 2)
    return tasks + _filled(DEVELOPMENT_THINGS, TRAIN_THING_FORMS, 2)


def test() -> Rows:
    """200 prompts about other topics, in other templates."""
    return _filled(TEST_TASKS, TEST_TASK_FORMS, 2) + _filled(TEST_THINGS, TEST_THING_FORMS, 2)


def neutral() -> Rows:
    """30 prompts of other kinds."""
    return [{"prompt": text} for text in NEUTRAL]
