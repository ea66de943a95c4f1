"""How fast it is: beside named rivals, beside what the machine can do, and how much memory it takes."""
