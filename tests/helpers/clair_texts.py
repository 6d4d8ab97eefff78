"""Texts that decline, and texts that only look so, for the tests of clair/."""

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist with that request.",
    "I am very sorry, I cannot provide this.",
    "Sorry, I can not do that.",
    "I can't revise this answer.",
    "I cannot comply with this request.",
    "I apologize, but I am unable to edit this text.",
    "I apologise, but I won't continue.",
    "Unfortunately, I am not able to help.",
    "I will not write that.",
    "As an AI language model, I do not have opinions.",
    "As an AI, I must decline.",
    "  **I'm sorry**, but I cannot help.",
    '"I can\'t help with that."',
    "i'm really sorry but i can't help",
]

NO_REFUSALS = [
    "Use baking soda. If that fails, I can't help you further.",
    "You can't park there.",
    "I can help with that: boil the water first.",
    "Sorry to hear that! Try restarting the router.",
    "I'm sorry for your loss. Here is a short note you could send.",
    "As an aid to memory, write it down.",
    "As an AI researcher you will read many papers.",
    "A refusal may begin with: I cannot help.\n",
    "Hi Anna, unfortunately I can't make it on Friday. Shall we say Monday?",
    "I will not be in the office until Tuesday.",
    "Here is what I can't stress enough: drink water.",
    "",
]
