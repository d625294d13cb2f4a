"""How right a completion is: text as it is compared, numbers in text, and the rules that judge an answer."""
