//! Floor 7: the demo and the lessons: commands of lehr, told as a story, with the numbers that came out.
