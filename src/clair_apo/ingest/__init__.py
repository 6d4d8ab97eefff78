"""Turns rows of other people's data into prompts with their answers, and into pairs.

pairs         rows -> preference pairs for training
rows          any file, folder or hub name -> rows -> prompts, questions of test sets
arrow_rows    rows of Parquet files and of `datasets`, converted value by value
cells         one value -> text or the turns of a conversation
"""
