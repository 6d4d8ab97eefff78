"""A probe of common knowledge: questions with four options of one kind."""

from typing import Any

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo",
    "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "England": "London",
    "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw",
    "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Cuba": "Havana",
    "Canada": "Ottawa", "Peru": "Lima", "Kenya": "Nairobi", "India": "New Delhi",
    "Turkey": "Ankara", "Hungary": "Budapest", "Belgium": "Brussels",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "day": "night", "wet": "dry", "rich": "poor",
    "happy": "sad", "fast": "slow", "young": "old", "hard": "soft", "open": "closed",
    "light": "dark", "early": "late", "full": "empty", "strong": "weak", "long": "short",
    "high": "low", "left": "right", "love": "hate", "war": "peace", "true": "false",
    "first": "last", "near": "far", "loud": "quiet",
}  # fmt: skip
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb",
    "hen": "chick", "pig": "piglet", "bear": "cub", "duck": "duckling", "deer": "fawn",
    "goat": "kid", "frog": "tadpole",
}  # fmt: skip
TOOLS = {
    "cut paper": "scissors", "drive in a nail": "a hammer", "tell the time": "a clock",
    "measure temperature": "a thermometer", "look at the stars": "a telescope",
    "sweep the floor": "a broom", "eat soup": "a spoon", "dig a hole": "a shovel",
    "take photos": "a camera", "write on paper": "a pen", "unlock a door": "a key",
    "keep food cold": "a refrigerator", "sew a button": "a needle", "paint a wall": "a brush",
    "cross a river": "a boat", "stay dry in the rain": "an umbrella",
}  # fmt: skip
KINDS = {
    "a rose": "a flower", "an oak": "a tree", "a salmon": "a fish", "an eagle": "a bird",
    "an ant": "an insect", "gold": "a metal", "a violin": "an instrument",
    "a carrot": "a vegetable", "Mars": "a planet", "red": "a color", "a shirt": "a garment",
    "a triangle": "a shape",
    "Monday": "a day of the week", "April": "a month", "soccer": "a sport", "the Nile": "a river",
}  # fmt: skip
NEXT = {
    "Monday": "Tuesday", "Wednesday": "Thursday", "Friday": "Saturday", "January": "February",
    "March": "April", "June": "July", "October": "November", "four": "five", "nine": "ten",
    "spring": "summer", "autumn": "winter", "A": "B",
}  # fmt: skip

FORMS = (
    ("What is the capital of {}?", "The capital of {} is {}.", CAPITALS),
    ("What is the opposite of {}?", "The opposite of {} is {}.", OPPOSITES),
    ("What is a young {} called?", "A young {} is called a {}.", YOUNG),
    ("What do you use to {}?", "To {} you use {}.", TOOLS),
    ("What kind of thing is {}?", "The kind of thing that {} is: {}.", KINDS),
    ("What comes after {}?", "After {} comes {}.", NEXT),
)


def questions() -> list[dict[str, Any]]:
    """104 questions; the wrong options are the right ones of the three facts that follow."""
    found = []
    for question, sentence, facts in FORMS:
        names, answers = list(facts), list(facts.values())
        for number, name in enumerate(names):
            picked = [answers[(number + step) % len(answers)] for step in range(4)]
            place = number % 4
            order = [*picked[1 : place + 1], picked[0], *picked[place + 1 :]]
            options = [sentence.format(name, option) for option in order]
            found.append({"question": question.format(name), "options": options, "answer": place})
    return found
