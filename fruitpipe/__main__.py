from fruitpipe.cli import main

main()
